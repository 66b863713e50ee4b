"""Every error has its place in the tree that the module shows, and an exit code that a shell can rely on."""

from __future__ import annotations

import inspect
import re

from headrace import errors

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.HeadraceError)
}


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    parents = ["HeadraceError"]
    shown = {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"([│ ]*)[├└]── (\w+)", line):
            depth = len(found[1]) // 4 + 1
            parents[depth:] = [found[2]]
            shown[found[2]] = parents[depth - 1]
    assert shown == {
        name: value.__mro__[1].__name__ for name, value in CLASSES.items() if name != "HeadraceError"
    }


def test_faults_of_the_user_and_of_stored_files_exit_with_2_and_failures_of_workers_with_1():
    codes = {name: value.exit_code for name, value in CLASSES.items()}
    assert {name for name, code in codes.items() if code != 2} == {"HeadraceError", "WorkerError"}
    assert codes["WorkerError"] == 1


def test_a_fault_of_the_caller_is_a_value_error():
    assert issubclass(errors.InputError, ValueError)


def test_every_error_has_one_sentence():
    assert all(value.__doc__ and value.__doc__.endswith(".") for value in CLASSES.values())
