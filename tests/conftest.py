import logging
import os

# before anything imports TensorFlow, whose C++ side reads it once
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

# what AutoGraph says when it falls back to running a function as it is: the loops and branches in
# it were then traced once and for all, which is wrong silently
UNCONVERTED = "AutoGraph could not transform"


class AutoGraphWarnings(logging.Handler):
    """Collects the log messages of functions that AutoGraph could not convert."""

    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.messages = []

    def emit(self, record):
        message = record.getMessage()
        if UNCONVERTED in message:
            self.messages.append(message)


HANDLER = AutoGraphWarnings()


def pytest_configure():
    # the logger of `tf.get_logger()`, by its name: tests without TensorFlow stay fast
    logging.getLogger("tensorflow").addHandler(HANDLER)


# A file stays in one process, for what its tests share: the longest go first, or one process ends
# alone with them.
LONGEST = ("test_docs.py", "test_binaries.py", "test_joint.py", "test_inference.py")


def pytest_collection_modifyitems(items):
    """Put the tests of the longest files first, otherwise in their order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def no_unconverted_functions():
    """Fail a test if AutoGraph could not transform a function in it or in its wider fixtures."""
    yield
    messages, HANDLER.messages = HANDLER.messages, []
    assert not messages, "\n".join(messages)
