"""`python -m tests.dying`: lib.train's command line with an accident, which the variable ACCIDENT describes.

"SIGKILL 6" kills the process after step 6, "SIGTERM 0.4" sends it that signal 0.4 seconds after its first step began.
Under torchrun it befalls the second process, once.
"""

import os
import signal
import threading
from typing import Any

from lib import train

number, when = os.environ["ACCIDENT"].split()
happens = os.environ.get("RANK", "1") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"


def die() -> None:
    os.kill(os.getpid(), signal.Signals[number])


class Accident(train.Watch):
    def __enter__(self) -> "Accident":
        if happens and "." in when:
            timer = threading.Timer(float(when), die)
            timer.daemon = True  # a run that is done before is not waited for
            timer.start()
        return super().__enter__()

    def step(self, line: dict[str, Any]) -> None:
        super().step(line)
        if happens and str(line["step"]) == when:
            die()


train.Watch = Accident
train.main()
