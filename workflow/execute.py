"""A notebook as a job: papermill runs it in a kernel of this very Python.

    python -m workflow.execute NOTEBOOK EXECUTED PARAMETERS OVERRIDES

NOTEBOOK: a name under `notebooks/`; EXECUTED: the notebook with its outputs; PARAMETERS: of the notebook, a JSON mapping;
OVERRIDES: its parameter `overrides`, likewise.
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
    """Starts no kernel but this Python's, whatever other kernels `python3` somebody has installed."""

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
