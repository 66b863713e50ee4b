"""Lightning is known by the module of the nearest caller outside of headrace and torch's DataLoader."""

import pytest

from headrace.load import called_by_lightning


@pytest.mark.parametrize(
    "module", ["lightning.fabric.utilities.data", "pytorch_lightning.loops", "lightning"]
)
def test_a_call_from_lightning_is_known(module):
    assert eval("ask()", {"__name__": module, "ask": called_by_lightning})


@pytest.mark.parametrize("module", ["__main__", "lightning_rod", "mylightning.data"])
def test_other_callers_are_not_lightning(module):
    assert not eval("ask()", {"__name__": module, "ask": called_by_lightning})


def test_a_dataloader_between_is_looked_through():
    between = {"__name__": "torch.utils.data.dataloader", "ask": called_by_lightning}
    exec("def through(): return ask()", between)
    assert eval("ask()", {"__name__": "lightning.pytorch", "ask": between["through"]})
    assert not eval("ask()", {"__name__": "script", "ask": between["through"]})
