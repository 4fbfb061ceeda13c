"""Runs a notebook as a job: papermill, in a kernel of this Python.

    python -m workflow.execute NOTEBOOK EXECUTED PARAMETERS OVERRIDES

NOTEBOOK: a name under `notebooks/`; EXECUTED: path of the notebook with its outputs; PARAMETERS: a JSON mapping;
OVERRIDES: the notebook's parameter `overrides`, also JSON.
"""

import json
import logging
import sys
import traceback

import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from traitlets import default

DEAD_KERNEL = 138  # papermill's exit code for a kernel that died


class OwnKernel(AsyncKernelManager):
    """Starts this Python's kernel even if another kernel `python3` is installed."""

    @default("kernel_spec_manager")
    def _without_installed_ones(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def main(notebook: str, executed: str, parameters: str, overrides: str) -> None:
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        papermill.execute_notebook(
            f"notebooks/{notebook}.ipynb",
            executed,
            {**json.loads(parameters), "overrides": json.loads(overrides)},
            kernel_name="python3",
            cwd=".",
            log_output=True,
            progress_bar=False,
            kernel_manager_class=OwnKernel,
        )
    except DeadKernelError:
        traceback.print_exc()
        sys.exit(DEAD_KERNEL)
    except papermill.PapermillExecutionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
