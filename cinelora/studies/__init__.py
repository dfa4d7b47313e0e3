"""What clips cost and how they hold still, setting by setting: which settings, how they are timed, and what is shown of it."""
