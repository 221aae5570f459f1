"""What the verbs share: from the command line to a composed config, a run folder and an exit code.

A run is composed by Hydra and called here; ``-m`` is a sweep, see sweeping.py, whose jobs are command lines of their own.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from importlib.metadata import distributions, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dehaze_zoo import launchers
from dehaze_zoo.errors import UsageError, near_misses
from dehaze_zoo.files import passing_name, written_aside
from dehaze_zoo.files import quoted as _quoted
from dehaze_zoo.launchers import QUOTED as _QUOTED
from dehaze_zoo.launchers import RUN_DIR as _RUN_DIR
from dehaze_zoo.launchers import SWEEP as _SWEEP
from dehaze_zoo.outcome import Outcome

__all__ = ["Outcome", "compose", "config_root", "launch", "run_verb"]

if TYPE_CHECKING:
    from omegaconf import DictConfig


Job = Callable[["DictConfig", Path], Outcome]
Hold = Callable[["DictConfig", Path], AbstractContextManager[None]]

CONFIG_ENTRY_POINT_GROUP = "dehaze_zoo.configs"
"""Installed packages name a package with yaml files of their own in this group; they are found like ours."""

_PATH_KEY = re.compile(
    r"input|output|checkpoint|init|teacher|stage1|matching|resume|replay|run_dir|config_dir|store|clear|hazy|photos"
    r"|data\.(sets\.[\w-]+\.)?(hazy|clear|depth|prepared)|(roots|checkpoints|results)\.[\w.-]+"
    r"|([\w-]+\.)+(root|checkpoint|teacher|weights|pretrained)"
)
_OPEN_KEY = re.compile(r"(roots|checkpoints|results)\.")  # any name may follow: the user's sets and models
_WRITTEN = ("output", "run_dir", "store", "prepared")  # paths that need not exist beforehand
_OVERRIDE = re.compile(r"(?P<sign>\+{0,2})(?P<key>[\w./@:-]+)=(?P<value>.*)", re.DOTALL)
_DEFAULT_RUN_DIR = re.compile(r"(^|/)outputs/[^/]+/[^/]+/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$")


def launch(verb: str, job: Job, hold: Hold | None = None) -> NoReturn:
    """Runs ``job`` on the command line's config and exits with its code; wrong use is one message on stderr and exit code 2.

    ``hold`` is entered before anything is written into the run folder, and may refuse it; it lasts as long as the job.
    """
    try:
        sys.exit(run_verb(verb, job, sys.argv[1:], hold))
    except UsageError as error:
        _complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def run_verb(verb: str, job: Job, argv: list[str], hold: Hold | None = None) -> int:
    """Runs ``job`` on these command-line words; returns the exit code. Raises UsageError for wrong use."""
    if "-h" in argv or "--help" in argv:
        print(_help(verb))
        return 0
    sweep = "-m" in argv or "--multirun" in argv
    flags = [arg for arg in argv if arg.startswith("-")]
    overrides = [arg for arg in argv if not arg.startswith("-")]
    if not os.environ.get(_QUOTED):
        overrides = [_quote_path(arg, sweep) for arg in overrides]
    search, overrides = _search_path(overrides)
    if sweep:
        return _sweep(verb, overrides, search)
    if flags:
        return _through_hydra(verb, flags, search, overrides)
    if _handed_over(verb, compose(verb, overrides + search), overrides + search):
        return 0
    _check_after(compose(verb, overrides + search))
    cfg = _composed(verb, overrides + search)
    return _run(verb, job, cfg, hold) or _then(cfg)


def _composed(verb: str, overrides: list[str]) -> DictConfig:
    """The config, with the runs that its key ``before`` asks for done first, each a process of its own in run_dir/<key>.

    What such a run would make is not made where the user gives the key a value. Under resume=auto run_dir is that of the run to go on with,
    which is found by its run.json: that is written before these runs begin.
    """
    cfg = compose(verb, overrides)
    before = cfg.get("before") or {}
    if not before or cfg.get("plan") or cfg.get("replay"):
        return cfg
    _check_paths(cfg)
    run_dir = os.environ.get(_RUN_DIR) or str(Path(cfg.run_dir).absolute())
    made = {str(key): own for key, own in before.items() if cfg.get(key) is None}

    def whole() -> DictConfig:
        files = [f"{key}={_quoted(str(Path(run_dir, key, 'checkpoints', 'best.ckpt')))}" for key in made]
        return compose(verb, [*overrides, *files, f"run_dir={_quoted(run_dir)}"])

    if not made or os.environ.get(_RUN_DIR):  # not in the other processes of a DDP run
        return whole()
    from dehaze_zoo.training.runs import find_run, read_run, run_of

    run = run_of(whole())
    if cfg.get("resume") == "auto":
        run_dir = str(find_run(run, Path(run_dir), say=True))
    if read_run(Path(run_dir)) is None:
        with suppress(OSError):  # the first of them says it
            Path(run_dir).mkdir(parents=True, exist_ok=True)
            run.write(Path(run_dir))
    given = [arg for arg in overrides if not arg.startswith(("experiment=", "run_dir=", "resume="))]
    for key, own in made.items():
        folder = Path(run_dir, key)
        code = launchers.Job(launchers.command(verb, [*given, *own, f"run_dir={_quoted(str(folder))}", "resume=auto"]), folder).run()
        if code > 128:  # asked to leave, and so are we
            raise SystemExit(code)
        if code:
            raise UsageError(f"the run for {key} in {folder} failed (exit code {code}); it says why above.")
    return whole()


def _check_after(cfg: DictConfig) -> None:
    """Raises UsageError for a path of the verbs in ``after`` that is missing already: they may begin hours from now."""
    if cfg.get("plan") or cfg.get("replay"):
        return
    for name, (verb, *own) in (cfg.get("after") or {}).items():
        for key, _, value in (str(word).partition("=") for word in own):
            if not _PATH_KEY.fullmatch(key) or Path(value).is_relative_to(cfg.run_dir):
                continue
            if value == "None":
                raise UsageError(f"{key}=PATH is needed: {verb} ({name}) follows this run and works on it.")
            if not Path(value).exists() or (Path(value).is_dir() and not any(Path(value).iterdir())):
                raise UsageError(f"{key}={value}: missing or empty, and {verb} ({name}) follows this run and works on it.")


def _then(cfg: DictConfig) -> int:
    """The verbs that the config's key ``after`` names, one after another, each a process of its own with run_dir/<name>."""
    after = cfg.get("after") or {}
    if not after or cfg.get("plan") or cfg.get("replay") or os.environ.get(_RUN_DIR):
        return 0
    for name, (verb, *own) in after.items():
        command = [sys.executable, "-m", f"dehaze_zoo.{verb}", *map(str, own), f"run_dir={Path(cfg.run_dir, str(name))}"]
        code = subprocess.run(command, env={key: text for key, text in os.environ.items() if key != _QUOTED}).returncode
        if code:
            return code
    return 0


def _run(verb: str, job: Job, cfg: DictConfig, hold: Hold | None = None) -> int:
    from omegaconf import OmegaConf

    _check_paths(cfg)
    child = bool(os.environ.get(_RUN_DIR))  # another process of a DDP run that we started
    first = not child and _rank() == 0
    if not child and _ranks() > 1 and _DEFAULT_RUN_DIR.search(cfg.run_dir):
        raise UsageError("these processes, started by torchrun or srun, must agree on their folder: give run_dir=DIR.")
    run_dir = Path(os.environ.setdefault(_RUN_DIR, str(Path(cfg.run_dir).absolute())))
    OmegaConf.update(cfg, "run_dir", str(run_dir).replace("${", "\\${"))
    try:
        with ExitStack() as stack:
            if first:
                run_dir.mkdir(parents=True, exist_ok=True)
                if hold is not None:
                    stack.enter_context(hold(cfg, run_dir))
                _write(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
                _write(run_dir / "environment.json", json.dumps(_environment(verb), indent=1))
            outcome = job(cfg, run_dir)
            if first and os.environ.get(_SWEEP):
                _write(run_dir / "outcome.json", json.dumps(dict(outcome.figures)))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(f"the disk is full: {error.filename or run_dir} cannot be written. Make room and repeat.") from error
        ours = (run_dir, *(passing_name(run_dir / name) for name in ("config.yaml", "run.lock")), run_dir / "run.lock", *run_dir.parents)
        if error.filename is not None and Path(os.fsdecode(error.filename)) in ours:
            raise UsageError(f"run_dir={run_dir} cannot be written: {error.strerror}") from error
        raise
    finally:
        if not child:
            del os.environ[_RUN_DIR]
    return outcome.code


def _rank() -> int:
    """This process's number among those that torchrun or srun started; 0 where they did not."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE") or (os.environ.get("SLURM_NTASKS") if "SLURM_PROCID" in os.environ else None) or 1)


def _through_hydra(verb: str, flags: list[str], search: list[str], overrides: list[str]) -> int:
    """Hydra's own flags, such as ``--cfg job``."""
    import hydra

    sys.argv = [sys.argv[0], *flags, *overrides, *search, f"verb={verb}"]
    hydra.main(version_base="1.3", config_path=str(config_root()), config_name=verb)(lambda _: None)()
    return 0


def _sweep(verb: str, overrides: list[str], search: list[str]) -> int:
    """Every job of -m in a process of its own, and a table of what they returned; see sweeping.py."""
    from hydra.errors import HydraException

    from dehaze_zoo.made import made
    from dehaze_zoo.sweeping import Grid, Sweep

    try:
        sweep = Sweep(verb, overrides, search, _groups(overrides + search))
    except HydraException as error:
        raise UsageError(_explain(verb, overrides, error)) from error
    cfg = compose(verb, [*sweep.unswept, *search])
    _check_paths(cfg)
    how = made(cfg.sweep) if cfg.get("sweep") else Grid()
    if isinstance(how, Grid):  # all at once beforehand, so that a typing error does not show up at night
        for chosen in sweep.combinations():
            _check_paths(compose(verb, [*sweep.shared, *(f"{key}={value}" for key, value in chosen.items()), *search]))
    launcher = _launcher(cfg)
    if not hasattr(launcher, "start"):
        raise UsageError(f"launcher={type(launcher).__name__.lower()} is for one run. A sweep takes local, joblib, slurm or ray.")
    return int(how.run(sweep, Path(cfg.run_dir).absolute(), launcher, cfg.seed))


def _launcher(cfg: DictConfig) -> Any:
    from dehaze_zoo.made import made

    return made(cfg.launcher) if cfg.get("launcher") else launchers.Local()


def _handed_over(verb: str, cfg: DictConfig, overrides: list[str]) -> bool:
    """Whether a launcher took the run away, to SLURM or to commands on several nodes."""
    if not cfg.get("launcher") or cfg.get("plan") or cfg.get("replay") or os.environ.get(_RUN_DIR):
        return False
    launcher = _launcher(cfg)
    if not hasattr(launcher, "hand_over"):
        return False
    _check_paths(cfg)
    run_dir = Path(cfg.run_dir).absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    own = [text for text in overrides if not text.lstrip("+~").startswith(("launcher=", "launcher.", "run_dir=", "resume="))]
    resume = cfg.get("resume") or "auto"
    words = [*own, f"resume={resume if resume == 'auto' else _quoted(resume)}", f"run_dir={_quoted(str(run_dir))}"]
    print(launcher.hand_over(launchers.Job(launchers.command(verb, words), run_dir)))
    return True


# ---------------------------------------------------------------------------------------------------------------- composing


def config_root() -> Path:
    """The folder of our yaml files: in the package when installed from a wheel, beside src/ in a clone."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def compose(verb: str, overrides: list[str]) -> DictConfig:
    """The config of a verb with Hydra overrides. Raises UsageError for an unknown key, group option or malformed override."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    with initialize_config_dir(str(config_root()), version_base="1.3"):
        try:
            return hydra_compose(verb, [*overrides, f"verb={verb}"])
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: group=null
            raise UsageError(_explain(verb, overrides, error)) from error
        except (YAMLError, UnicodeDecodeError) as error:  # of the user's own file, in config_dir or a package
            raise UsageError(f"a yaml file is none: {_first_lines(error)}") from error


def _explain(verb: str, overrides: list[str], error: Exception) -> str:
    """Hydra's complaint as what, where, what to do."""
    from hydra import compose as hydra_compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf

    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: not understood. Write key=value; quote lists and special characters for the shell, as in 'loss=[l1,ssim]'."
        )
    groups = _groups(overrides)
    known: list[str] = []
    for text in overrides:
        parsed = OverridesParser.create().parse_override(text)
        key, value = parsed.key_or_group, parsed.value()
        if key in groups:
            for option in value if isinstance(value, list) else [value]:
                if option is not None and str(option) not in groups[key]:
                    return f"{text}: there is no {key} called {str(option)!r}. {near_misses(str(option), groups[key])}"
            known.append(text)
    try:
        base = hydra_compose(verb, known)
    except (HydraException, ValueError):
        return _first_lines(error)
    for text in overrides:
        parsed = OverridesParser.create().parse_override(text)
        key = parsed.key_or_group
        if key in groups or key.startswith("hydra.") or parsed.is_add() or parsed.is_force_add():
            continue
        node: Any = base
        for i, part in enumerate(parts := key.split(".")):
            if not OmegaConf.is_dict(node) or part not in node:
                where = ".".join(parts[:i])
                options = list(node) if OmegaConf.is_dict(node) else []
                options += list(groups) if i == 0 else []
                return (
                    f"{text}: there is no key {part!r}"
                    + (f" in {where}" if where else f" in {verb}'s config")
                    + f". {near_misses(part, map(str, options))}"
                )
            node = node._get_node(part)
            node = OmegaConf.select(base, ".".join(parts[: i + 1]), throw_on_missing=False) if OmegaConf.is_dict(node) else node
    return _first_lines(error)


def _first_lines(error: Exception) -> str:
    return "\n".join([line for line in str(error).splitlines() if line.strip()][:4])


def _groups(overrides: list[str]) -> dict[str, list[str]]:
    """Config groups and the names of their options, ours and those of the search path."""
    roots = [config_root()]
    for text in overrides:
        roots += [Path(found) for found in re.findall(r"file://([^']*)", text)] if text.startswith("hydra.searchpath") else []
    groups: dict[str, list[str]] = {}
    for root in roots:
        for file in sorted(root.glob("*/**/*.yaml")):
            groups.setdefault(file.parent.relative_to(root).as_posix(), []).append(file.stem)
    return groups


def _search_path(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Where Hydra looks besides our own yaml: config_dir=DIR and installed packages; and the overrides without config_dir."""
    places, rest = [], []
    for text in overrides:
        if text.startswith("config_dir="):
            folder = Path(_unquoted(text.partition("=")[2])).absolute()
            if not folder.is_dir():
                raise UsageError(f"config_dir={folder}: no such folder. It should hold yaml files in groups, such as model/mine.yaml.")
            places.append(_quoted(f"file://{folder}"))
        else:
            rest.append(text)
    places += [f"pkg://{point.value}" for point in entry_points(group=CONFIG_ENTRY_POINT_GROUP)]
    return ([f"hydra.searchpath=[{','.join(places)}]"] if places else []), rest


# -------------------------------------------------------------------------------------------------------------------- paths


def _quote_path(argument: str, sweep: bool) -> str:
    """A path key's value quoted for Hydra, whatever characters it holds; other overrides as they are."""
    match = _OVERRIDE.fullmatch(argument)
    if match is None or not _PATH_KEY.fullmatch(match["key"]):
        return argument
    sign = "++" if _OPEN_KEY.match(match["key"]) else match["sign"]
    value = match["value"]
    if sweep and value[:1] not in ("'", '"'):  # under -m a comma separates jobs
        return f"{sign}{match['key']}={','.join(_quoted_path(match['key'], part) for part in value.split(','))}"
    return f"{sign}{match['key']}={value if sweep else _quoted_path(match['key'], value)}"


def _quoted_path(key: str, value: str) -> str:
    is_word = value == "null" or (key.endswith(".pretrained") and value.lower() in ("true", "false"))  # a switch, or FILE
    return value if is_word else _quoted(value)


def _unquoted(value: str) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return str(OverridesParser.create().parse_override(f"x={value}").value())


def _check_paths(cfg: DictConfig) -> None:
    """Raises UsageError for a path in the config that does not exist, and for a data set without a folder."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dehaze_zoo.made import leaves

    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(_first_lines(error)) from error
    for key, value in leaves(plain):
        if isinstance(value, str) and _PATH_KEY.fullmatch(key) and key.split(".")[-1] not in _WRITTEN:
            is_word = (key, value) == ("resume", "auto") or (key.endswith("checkpoint") and value == "shipped")
            is_word = is_word or (key == "input" and (value == "-" or next(glob.iglob(value, recursive=True), None) is not None))
            if not is_word and not Path(value).exists():
                raise UsageError(f"{key}={value}: no such file or folder. Check the path (relative ones start at {Path.cwd()}).")
    data = cfg.get("data")
    if data is not None and not cfg.get("plan"):
        from dehaze_zoo.data.layouts import LAYOUTS, find_root

        if data.set in LAYOUTS and not (data.get("hazy") and data.get("clear")):
            find_root(data.set, data.root)


# --------------------------------------------------------------------------------------------------------------- what it says


def _complain(error: UsageError) -> None:
    lines = [line for line in str(error).splitlines() if line.strip()]
    print("error: " + "\n".join(lines[:6]), file=sys.stderr)


def _help(verb: str) -> str:
    doc = sys.modules["__main__"].__doc__ or ""
    groups = {name: options for name, options in _groups([]).items() if "/" not in name}
    primary = (config_root() / f"{verb}.yaml").read_text(encoding="utf-8")
    used = {name: options for name, options in groups.items() if re.search(rf"\b{name}\b", primary)}
    lines = [doc.strip(), "", "Groups (group=option):"]
    lines += [f"  {name:<11} {' '.join(options)}" for name, options in used.items()]
    lines += ["", f"Keys (key=value; {verb}.yaml, every key can be overridden, -m sweeps, --cfg job shows the whole config):"]
    lines += [f"  {line}" for line in primary.splitlines() if re.match(r"[a-z_]+:(?! *$)", line)]
    common = (config_root() / "common.yaml").read_text(encoding="utf-8")
    lines += [f"  {line}" for line in common.splitlines() if re.match(r"[a-z_]+: ", line)]
    return "\n".join(lines)


def _environment(verb: str) -> dict[str, Any]:
    """Where and with what a run was made: command, machine, versions of all installed packages, commit of the code."""
    import platform

    from dehaze_zoo import __version__
    from dehaze_zoo.data.decoder import decoder_stamp

    commit = None
    if (config_root().parent / ".git").exists():
        git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=config_root(), capture_output=True, text=True)
        commit = git.stdout.strip() or None
    return {
        "command": ["python", "-m", f"dehaze_zoo.{verb}", *sys.argv[1:]],
        "dehaze_zoo": __version__,
        "commit": commit,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "decoder": decoder_stamp(),
        "packages": {str(d.metadata["Name"]): d.version for d in sorted(distributions(), key=lambda d: str(d.metadata["Name"]).lower())},
    }


def _write(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
