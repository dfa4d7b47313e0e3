"""Footage in, dataset out: ``python -m cinelora.prepare data=folder data.root=/my/footage``; ``--help`` lists every setting.

Composes and checks the settings, and hands over to ``cinelora.footage``. What it leaves lies in the prepared folder, where
the stages find it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from cinelora.cli.main import main
from cinelora.config.schema import PrepareConfig, TrainConfig
from cinelora.config.sentences import sentence
from cinelora.families import family_of
from cinelora.families.text_limit import Lost, caption_lines, look_of, may_be_long, refuse_lost
from cinelora.io.terminal import say


def run(config: PrepareConfig, _run_dir: Path) -> int:
    """Prepare the footage, write what came out, and say where; the exit code."""
    from cinelora.footage.build_dataset import prepare_each, whole_dataset
    from cinelora.footage.contact_sheet import lines, write_all
    from cinelora.footage.sample_source import wanted_by

    look, lost_among = look_of(config.data), partial(lost_of_captions, config)
    refuse_lost(look, lost_among)
    stills, windows = (wanted_by(config.model, frames, config.seed) for frames in (1, config.num_frames))
    prepared, of_stills = prepare_each(config.data, [windows, stills], config.workers)
    manifest = whole_dataset(prepared, of_stills, config.data, windows)
    captions = {sample.id: sample.caption for sample in manifest.samples}
    long = caption_lines(captions, lost_among, look.get("data.description"))
    write_all(prepared, manifest, config.data, windows)
    say(*lines(prepared, manifest), *long)
    return 0


def lost_of_captions(config: PrepareConfig, texts: Iterable[str | None]) -> dict[str, Lost]:
    """What the model's text encoder loses of captions; a tokenizer that is still on the hub is left there, and says nothing."""
    family = family_of(config.model)
    long = [text for text in texts if text and may_be_long(text, family.text_tokens)]
    if not long:
        return {}
    from cinelora.families.family import Part
    from cinelora.families.machinery import machinery_of

    bundle = machinery_of(config.model).from_config(config.model, family.stills.name, Path(TrainConfig().cache))
    if not bundle.is_at_hand(Part.TOKENIZER):
        say(sentence("texts", "uncounted", count=len(long), source=bundle.part_source(Part.TOKENIZER)))
        return {}
    return bundle.lost(long)


if __name__ == "__main__":
    sys.exit(main("prepare", sys.argv[1:], run))
