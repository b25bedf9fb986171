"""``torchrun … -m training.sft``: the same as ``s1 sft``, one process per GPU."""

from training.sft.cli import app

app(prog_name="s1 sft")
