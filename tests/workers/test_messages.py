"""Messages: errors cross a pipe whole."""

import pickle

import pytest

from headrace.errors import ConfigError, WorkerError
from headrace.workers.messages import describe_exit, task_failed


@pytest.mark.parametrize("error", [ConfigError("what, where"), OSError(28, "No space left", "part-0")])
def test_our_errors_and_the_systems_stay_what_they_are(error):
    received = pickle.loads(pickle.dumps(task_failed(error))).error
    assert type(received) is type(error)
    assert str(received) == str(error)


def test_other_errors_keep_their_traceback_as_text():
    try:
        {}["missing"]
    except KeyError as error:
        received = task_failed(error).error
    assert isinstance(received, WorkerError)
    assert "test_messages.py" in str(received)
    assert "KeyError: 'missing'" in str(received)


def test_an_exit_code_is_said_in_words():
    assert describe_exit(-15) == "signal 15 (SIGTERM)"
    assert describe_exit(2) == "exit code 2"
