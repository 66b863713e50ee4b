"""Options dataclasses on the command line: names, types, defaults, choices and help come from the fields."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from typer.testing import CliRunner
from typing_extensions import Doc

from headrace.cli.options import with_options
from headrace.types import Flag


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Optimizer."""

    lr: Annotated[float, Doc("Peak learning rate.")] = 1e-3
    betas: Annotated[tuple[float, float], Doc("Of AdamW.")] = (0.9, 0.95)
    schedule: Annotated[Literal["cosine", "linear"], Doc("Of the rate.")] = "cosine"
    init_from: Annotated[str | None, Doc("Begin with these weights."), Flag("--from")] = None
    fused: Annotated[bool, Doc("One kernel.")] = True
    verbose: Annotated[bool, Doc("More lines.")] = False
    hook: object = None


def run(*words):
    app = typer.Typer()
    got = []

    @app.command()
    @with_options(optimizer=OptimizerOptions)
    def train(store: str, optimizer: OptimizerOptions, json: bool = False) -> None:
        got.append((store, optimizer, json))

    result = CliRunner().invoke(app, list(words))
    return result, got


def test_a_command_without_options_gets_the_defaults():
    result, got = run("store")
    assert result.exit_code == 0, result.output
    assert got == [("store", OptimizerOptions(), False)]


def test_each_field_is_an_option_of_its_type():
    result, got = run(
        "store", "--lr", "0.5", "--betas", "0.8", "0.9", "--schedule", "linear", "--from", "x", "--no-fused",
        "--verbose", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert got == [
        (
            "store",
            OptimizerOptions(
                lr=0.5, betas=(0.8, 0.9), schedule="linear", init_from="x", fused=False, verbose=True
            ),
            True,
        )
    ]


def test_a_literal_is_the_list_of_choices():
    result, _ = run("store", "--schedule", "step")
    assert result.exit_code == 2
    assert "cosine" in result.output


def test_help_shows_doc_and_panel_and_leaves_out_fields_without_doc():
    result, _ = run("--help")
    assert "Peak learning rate." in result.output
    assert "Optimizer" in result.output
    assert "--hook" not in result.output
