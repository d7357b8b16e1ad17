"""Silence about what does not apply to these runs."""

import logging
import warnings

from transformers.utils.logging import disable_progress_bar


def quieten() -> None:
    """Silences log lines and warnings of Lightning, transformers and matplotlib that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    disable_progress_bar()
    # On a node with SLURM installed, for a run that torchrun or nobody started.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # The base model is always in evaluation mode: its own dropout would make the ratio random.
    warnings.filterwarnings("ignore", message="Found \\d+ module.s. in eval mode")
    # In a run of one process, because vLLM has a process group of its own.
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log\\(")
    # Matplotlib on a busy machine: the plots are small.
    warnings.filterwarnings("ignore", message="Creating legend with loc=")
    # Lightning 2.6 calls an API that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
