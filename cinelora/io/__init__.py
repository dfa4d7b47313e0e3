"""Files, the hub, the machine, and pages: what the other rooms write and read with."""
