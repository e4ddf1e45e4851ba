"""The process environment that the libraries below are started in. Standard library only."""

from __future__ import annotations

import logging
import os
import warnings

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "critical",
    "HF_HUB_VERBOSITY": "error",
}
_LOGGERS = ("trl", "peft", "accelerate", "bitsandbytes", "torch", "huggingface_hub")


def prepare() -> None:
    """Silence the libraries' own bars, warnings and telemetry, and let idle threads sleep.

    Call it before any of them is imported. What a person has set in the environment stays.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # OpenMP threads that wait by spinning take the core from the thread they wait for as soon as anything else runs
    # on the machine: measured 8 times slower steps on two cores shared with one other process. GNU's OpenMP may spin
    # for some microseconds first, which makes the steps of small models a fifth faster where the cores are idle.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    warnings.filterwarnings("ignore")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
