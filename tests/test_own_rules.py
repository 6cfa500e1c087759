"""Rules of this project that no linter knows, read from the syntax tree of every module in src."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "overnight"

A_SHELL = "a shell reads its argument; start the program itself, with a list of arguments"
NEVER = {
    "extractall": "writes wherever the archive says; use overnight.archive",
    "unpack_archive": "writes wherever the archive says; use overnight.archive",
    "make_archive": "follows symlinks; use overnight.archive",
    "tarfile": "its filter is bypassed by CVE-2025-4517; archives are zips of our own",
    "pickle": "runs what it reads; use json",
    "system": A_SHELL,
    "popen": A_SHELL,
    "create_subprocess_shell": A_SHELL,
    "getoutput": A_SHELL,
    "getstatusoutput": A_SHELL,
}
STARTS_PROCESSES = {"create_subprocess_exec", "Popen", "run", "call", "check_call", "check_output"}
HTTP_CLIENTS = {
    "httpx.AsyncClient",
    "httpx.Client",
    "httpcore.AsyncConnectionPool",
    "httpcore.ConnectionPool",
}
MAY_SEND = {
    "agent/gateway",
    "adapters/webhooks",
    "adapters/supabase/connection",
    "adapters/cloudflare/client",
    "adapters/cloudflare/over_http",
    "client/connection",
    "cli/doctor",
    "deploying/seen",
}
"""The gateway's upstream, the webhook sender, the archive store, the operator's own edge and account, and what a user
runs to talk to a service."""
MAY_USE_PROXIES = {"client/connection", "cli/doctor"}
"""A user may sit behind a proxy; the service asks no environment where to send a secret."""
NO_SENDERS = {"requests", "urllib.request", "http.client", "aiohttp", "urllib3"}
SECRET = re.compile(r"(^|_)(secret|token|signature|password|api_key)s?$")
OTHER_SIGNATURES = "archive/"
"""The four bytes that a record of a zip begins with."""
SHOWN_BY = ("cli/", "rehearsal/story", "agent/canary")
"""`rehearsal/story` only holds programs that an agent writes; `agent/canary` is one, which attacks its sandbox."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").as_posix()


def name_of(node: ast.AST) -> str:
    """The last name of `a.b.c`, or of a call of it."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Call(func=function):
            return name_of(function)
        case _:
            return ""


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def given(call: ast.Call) -> dict[str | None, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords}


def imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            yield module
            yield from (f"{module}.{alias.name}" for alias in names)
        case _:
            pass


def faults(node: ast.AST, where: str) -> Iterator[str]:
    yield from never_used(node)
    yield from unpinned_senders(node, where)
    match node:
        case ast.Call():
            yield from careless_calls(node, where)
        case ast.Compare() if not where.startswith(OTHER_SIGNATURES):
            yield from leaky_comparisons(node)
        case ast.Attribute() if dotted(node) in {"os.environ", "os.getenv", "os.environb"}:
            if where not in {"settings/loading", "agent/canary"}:
                yield "only settings reads the environment: make it a field of Settings, and pass it in"
        case _:
            pass


def never_used(node: ast.AST) -> Iterator[str]:
    used = {name_of(node)} if isinstance(node, ast.Attribute) else set()
    used |= {part for name in imported(node) for part in name.split(".")}
    for name in sorted(used & NEVER.keys()):
        if name != "system" or dotted(node) == "os.system" or "os.system" in imported(node):
            yield f"{name}: {NEVER[name]}"


def unpinned_senders(node: ast.AST, where: str) -> Iterator[str]:
    for name in imported(node):
        if any(name == sender or name.startswith(f"{sender}.") for sender in NO_SENDERS):
            yield f"{name}: nothing here checks and pins the address; send by a module of MAY_SEND"
    named = {dotted(node), *(imported(node) if isinstance(node, ast.ImportFrom) else ())}
    if named & HTTP_CLIENTS and where not in MAY_SEND:
        yield f"an HTTP client: only {sorted(MAY_SEND)} send requests, each to whom MAY_SEND says"
    if dotted(node) in {f"httpx.{verb}" for verb in ("get", "post", "put", "request", "stream", "delete")}:
        yield "httpx's functions read the environment's proxies: make a client with trust_env=False"


def careless_calls(call: ast.Call, where: str) -> Iterator[str]:
    name, arguments = name_of(call), given(call)
    starts = name == "create_subprocess_exec" or dotted(call.func).startswith("subprocess.")
    if starts and name in STARTS_PROCESSES and "env" not in arguments:
        yield f"{name} without env=: the child would inherit ours, secrets included; give it what it needs"
    if "shell" in arguments and ast.unparse(arguments["shell"]) != "False":
        yield f"shell=: {A_SHELL}"
    if dotted(call.func) in {"httpx.AsyncClient", "httpx.Client"}:
        asked = ast.unparse(arguments["trust_env"]) if "trust_env" in arguments else "True"
        if asked == "True" or (asked != "False" and where not in MAY_USE_PROXIES):
            yield "an httpx client without trust_env=False: it would ask the environment for a proxy"
    if name == "print" and not where.startswith(SHOWN_BY):
        yield "print: only the command line talks to people; write to the log, or raise"


def leaky_comparisons(comparison: ast.Compare) -> Iterator[str]:
    if not any(isinstance(op, ast.Eq | ast.NotEq) for op in comparison.ops):
        return
    sides = (comparison.left, *comparison.comparators)
    if any(isinstance(side, ast.Constant) for side in sides):
        return  # a word, an empty text: no secret is written into the code (ruff S105)
    for side in sides:
        if SECRET.search(name_of(side).lower()):
            yield f"{name_of(side)} compared with ==: use hmac.compare_digest"


@pytest.mark.parametrize("path", modules(), ids=place)
def test_a_module_keeps_the_rules(path: Path) -> None:
    found = [
        f"{path.relative_to(SOURCE.parents[1])}:{getattr(node, 'lineno', 0)}: {fault}"
        for node in ast.walk(ast.parse(path.read_text()))
        for fault in faults(node, place(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "zipfile.ZipFile(path).extractall(target)",
        "shutil.unpack_archive(path)",
        "from shutil import make_archive",
        "import tarfile",
        "subprocess.run(['ls'])",
        "subprocess.run('ls', env={}, shell=True)",
        "asyncio.create_subprocess_exec('ls')",
        "asyncio.create_subprocess_shell('ls')",
        "os.system('ls')",
        "os.popen('ls')",
        "httpx.AsyncClient(trust_env=False)",
        "httpx.get(url)",
        "import requests",
        "from urllib.request import urlopen",
        "given == secret",
        "job.token != other",
        "os.environ['HOME']",
        "print('hello')",
    ],
)
def test_the_rules_are_noticed_when_broken(line: str) -> None:
    assert [fault for node in ast.walk(ast.parse(line)) for fault in faults(node, "flows/made_up")] != []


@pytest.mark.parametrize("proxies", ["", "trust_env=True", "trust_env=wanted"])
def test_the_gateway_itself_may_not_ask_the_environment_for_a_proxy(proxies: str) -> None:
    call = ast.parse(f"httpx.AsyncClient({proxies})")
    assert [fault for node in ast.walk(call) for fault in faults(node, "agent/gateway")] != []
