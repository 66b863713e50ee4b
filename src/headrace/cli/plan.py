"""`headrace plan`: a model and hardware -> ranked layouts; `plan check`: measured runs -> how far predictions err."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli.console import print_json, stderr, stdout
from headrace.cli.options import with_options
from headrace.cli.plan_options import (
    HardwareOptions,
    LayoutOptions,
    PlanModelOptions,
    PlanOutputOptions,
    WorkOptions,
)
from headrace.cli.plan_tables import list_gpus, show_check, show_lines, show_plan, warn_of_unread, write_page
from headrace.errors import ConfigError
from headrace.paths import local_path, output_file
from headrace.plan import StorageOptions

EXAMPLES = """[bold]Examples[/bold]

headrace plan --model gpt3-13b --gpu h100-80gb --gpus 64

headrace plan --model gpt3-175b --gpu a100-80gb --gpus 1024 --batch-size 1536 --tp 8 --tokens 300e9

headrace plan --layers 32 --width 4096 --heads 32 --kv-heads 8 --gpu rtx4090-24gb --gpus 4 --why dp=4,shard=zero3

headrace plan --here --gpus 2 --model gpt3-125m --batch-size 16

headrace plan --model gpt3-1.3b --gpus 8 --store store

headrace plan check measured.csv --calibrate mine.csv --json
"""
CHECK_EXAMPLES = """[bold]Examples[/bold]

headrace plan check measured.csv

headrace plan check measured.csv --calibrate mine.csv --json
"""


plan_app = typer.Typer(
    help="Which parallel strategy? The layouts that fit, ranked, with 90 % intervals; no GPU is used.",
    invoke_without_command=True,
    epilog=EXAMPLES,
)


@plan_app.callback(invoke_without_command=True)
@with_options(
    model=PlanModelOptions,
    hardware=HardwareOptions,
    work=WorkOptions,
    layout=LayoutOptions,
    storage=StorageOptions,
    output=PlanOutputOptions,
)
def plan(
    context: typer.Context,
    model: PlanModelOptions,
    hardware: HardwareOptions,
    work: WorkOptions,
    layout: LayoutOptions,
    storage: StorageOptions,
    output: PlanOutputOptions,
) -> None:
    """Rank the parallel layouts of a model on hardware, and say what binds the best one."""
    if context.invoked_subcommand is not None:
        return
    if hardware.list_gpus:
        list_gpus(as_json=output.as_json)
        return
    import headrace.plan as planner

    page = None if output.page is None else output_file(output.page, name="plan: page", example="plan.html")
    device, gpus = _hardware(hardware)
    shape = _shape(model)
    steps, memories, system = _calibrations(output, device)
    job = planner.TrainingJob(
        shape=shape, hardware=device, gpus=gpus, seq_len=work.seq_len, global_batch=work.batch_size,
        dtype=planner.resolve_dtype(work.dtype, device), system=system,
    )  # fmt: skip
    layouts = planner.search(job, steps, memories, fixed=_fixed(layout))
    explained = 0 if output.why is None else planner.find(layouts, output.why, job)
    figures = _input_output(
        storage,
        work,
        device,
        parameters=shape.num_parameters,
        step_s=float(layouts.step.value[explained]),
        job=job,
    )
    if output.why is not None:
        show_lines(
            [
                *planner.why(layouts, job, steps, memories, output.why),
                ("", ""),
                *((f.name, f"{f.value:,.4g} {f.unit}  = {f.formula}") for f in figures),
            ],
            as_json=output.as_json,
        )
        return
    found = [planner.summary_of(layouts, job, steps, i) for i in range(min(output.top, len(layouts)))]
    any_fits = bool(layouts.fits[0] or layouts.tight[0])
    sentences = planner.sentences(layouts, job, steps)
    runs = planner.first_runnable(layouts, job)
    if runs is not None and runs > 0:
        slower = 100 * (layouts.step.value[runs] / layouts.step.value[0] - 1)
        sentences.append(
            f"The command trains the best layout that headrace train has, {planner.layout_name(layouts, runs)}: "
            f"{slower:.1f} % slower than the best one."
        )
    result: dict[str, Any] = {
        "model": {"name": shape.name, "parameters": shape.num_parameters},
        "hardware": {"name": device.name, "gpus": job.gpus, "memory_gib": device.memory_bytes / 2**30},
        "dtype": job.dtype,
        "num_layouts": len(layouts),
        "num_fitting": int(layouts.fits.sum()),
        "layouts": found,
        "sentences": sentences,
        "duration": planner.duration(job, layouts, 0, work.tokens) if any_fits else None,
        "command": None
        if runs is None
        else planner.command(job, layouts, runs, model=model.model or "MODEL", store=work.store or "STORE"),
        "input_output": figures,
    }
    if page is not None:
        write_page(page, result, layouts)
    if output.as_json:
        print_json(result)
    else:
        show_plan(result, job.hardware.memory_bytes / 2**30)
    if not any_fits:
        raise typer.Exit(1)


CALIBRATE_EXAMPLES = """[bold]Examples[/bold]

headrace plan calibrate run another-run

headrace plan calibrate run --here --out lab.json
"""


@plan_app.command("calibrate", epilog=CALIBRATE_EXAMPLES)
def calibrate(
    *,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs of headrace train.", show_default=False)
    ],
    hardware: Annotated[
        str | None, typer.Option(help="TOML file of the machine that they ran on.", show_default=False)
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="They ran on this machine: probe it.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            help="File for the points and constants; default: the one that every plan of yours reads.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all runs of the file as JSON.")] = False,
) -> None:
    """Add runs of yours as measured points of their system; later plans of that system use them."""
    import dataclasses

    from headrace.plan import (
        add_runs,
        measured_run,
        own_constants_path,
        processes_of,
        read_hardware,
        step_seconds,
    )

    if hardware is not None and here:
        raise ConfigError("--hardware and --here are given; one of them says what the machine is")
    file = (
        own_constants_path()
        if out is None
        else output_file(out, name="plan calibrate: out", example="lab.json")
    )
    known = None if hardware is None else read_hardware(hardware)
    measured = []
    for path in runs:
        device = known
        if here:
            from headrace.probe import probe_machine

            device = probe_machine(processes=processes_of(path)).hardware
        measured.append(measured_run(path, hardware=device))
    fitted, everything = add_runs(measured, file)
    if json:
        print_json({"file": str(file), "runs": [dataclasses.asdict(run) for run in everything]})
        return
    for run in measured:
        found = fitted.predict(step_seconds, run.points(), [run.system])
        stdout.print(
            f"{run.run}: {run.step_s:.4g} s a step (median of {run.steps}); the calibrated plan says "
            f"{found.value[0]:.4g} ({found.low[0]:.4g} to {found.high[0]:.4g})",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    stdout.print(f"{len(everything)} runs in {file}", soft_wrap=True, highlight=False)


@plan_app.command("check", epilog=CHECK_EXAMPLES)
def check(
    *,
    table: Annotated[str, typer.Argument(metavar="FILE.csv", help="Measured runs.", show_default=False)],
    calibrate: Annotated[
        str | None, typer.Option(help="Measured runs that systems are calibrated on.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print every row as JSON on stdout.")] = False,
) -> None:
    """Predict measured runs, and say how far off the planner is."""
    from headrace.plan import check as predict

    report = predict(table, calibrate_on=calibrate)
    warn_of_unread(calibrate, report.calibration_unread)
    if json:
        print_json(report)
        return
    show_check(report)


def _hardware(options: HardwareOptions) -> tuple[Any, int]:
    """The hardware, and how many devices of it."""
    import dataclasses

    from headrace.plan import gpu_by_name, read_hardware

    given = [
        name
        for name, value in (
            ("--gpu", options.gpu), ("--hardware", options.hardware), ("--here", options.here or None),
        )
        if value is not None
    ]  # fmt: skip
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are given; one of them says what the hardware is")
    count = options.gpus
    if count is not None and count < 1:
        raise ConfigError(f"--gpus is {count}; expected 1 or more")
    if options.measure_again and not options.here:
        raise ConfigError("--measure-again is for --here")
    if options.here:
        from headrace.probe import probe_machine

        found = probe_machine(processes=count, again=options.measure_again)
        device, count = found.hardware, found.devices
        if found.path is not None:
            origin = "cached in" if found.is_cached else "written to"
            stderr.print(f"{device.source}; {origin} {found.path}", soft_wrap=True, highlight=False)
    elif options.hardware is not None:
        device = read_hardware(options.hardware)
    else:
        device = gpu_by_name(options.gpu or "h100-80gb")
    if options.gpus_per_node is not None:
        if options.gpus_per_node < 1:
            raise ConfigError(f"--gpus-per-node is {options.gpus_per_node}; expected 1 or more")
        device = dataclasses.replace(device, gpus_per_node=options.gpus_per_node)
    return device, count or 8


def _input_output(
    storage: StorageOptions, work: WorkOptions, device: Any, *, parameters: int, step_s: float, job: Any
) -> list[Any]:
    """The bytes around the job, with what the store and the machine measured."""
    import headrace.plan as planner

    store = None
    if work.store is not None:
        from headrace.probe import measure_store

        store = measure_store(work.store)
        storage = planner.with_store(storage, store)
    measured = planner.with_measured(
        storage, decode_tokens_s=device.decode_tokens_s, cores=device.cores_per_node
    )
    return planner.input_output(
        measured, store=store, parameters=parameters, tokens_per_s=job.global_batch * job.seq_len / step_s,
        nodes=max(1, -(-job.gpus // device.gpus_per_node)), step_s=step_s, tokens=work.tokens,
        memory_bytes_s=device.memory_bytes_s, seq_len=job.seq_len,
    )  # fmt: skip


def _shape(options: PlanModelOptions) -> Any:
    from headrace.plan import custom_shape, model_shape

    widths = (options.layers, options.width, options.heads)
    if options.model is not None:
        if any(value is not None for value in widths):
            raise ConfigError("give --model, or --layers, --width and --heads; not both")
        _refuse_widths(options)
        return model_shape(options.model)
    layers, width, heads = widths
    if layers is None or width is None or heads is None:
        raise ConfigError("plan needs --model, or --layers, --width and --heads. See headrace plan --help")
    return custom_shape(
        layers=layers, width=width, heads=heads, kv_heads=options.kv_heads, ffn=options.ffn, gated=options.gated,
        vocab=options.vocab,
    )  # fmt: skip


def _refuse_widths(options: PlanModelOptions) -> None:
    """Refuse parts of a shape beside a model that has them.

    Raises:
        ConfigError: names the option.
    """
    default = PlanModelOptions()
    for name in ("kv_heads", "ffn", "gated", "vocab"):
        if getattr(options, name) != getattr(default, name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} is given beside --model {options.model}, which says it; {option} is for --layers, --width "
                f"and --heads"
            )


def _calibrations(options: PlanOutputOptions, device: Any) -> tuple[Any, Any, str | None]:
    """Calibrations of step time and memory, and the system whose constants apply; None: headrace's family."""
    from headrace.plan import calibration_of, calibrations, read_table, system_of_hardware

    path = None if options.calibrate is None else local_path(options.calibrate, name="plan: calibrate")
    if path is not None and path.suffix == ".json":
        steps, memories = calibrations(path)
    elif path is not None:
        table = read_table(path)
        warn_of_unread(path, table.unread)
        steps, memories = calibration_of(table)
    else:
        steps, memories = calibrations()
    system = options.system
    if system is not None and system not in steps.systems:
        raise ConfigError(f"--system {system!r} has no points. Known: {', '.join(steps.systems)}")
    return steps, memories, system or system_of_hardware(device, steps)


def _fixed(options: LayoutOptions) -> dict[str, int | str]:
    values = {name: getattr(options, name) for name in LayoutOptions.__slots__}
    return {name: value for name, value in values.items() if value not in (-1, "any")}
