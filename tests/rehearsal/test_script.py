"""What the model says next, decided from the conversation alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.domain.prompts import continuation
from overnight.rehearsal.conversation import Message
from overnight.rehearsal.script import Reply, ToolUse, reply_to

ENVIRONMENT = "# Environment\n - Primary working directory: /work dir\n - Is a git repository: false"
KILLED = "[Tool call interrupted: the session ended before this call's result was recorded"


@dataclass
class Client:
    """Plays Claude Code: sends prompts, runs no tool, and keeps the conversation as the CLI sends it."""

    environment: str = ENVIRONMENT
    messages: list[Message] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def prompt(self, text: str) -> Reply:
        self.messages.append(Message("user", [{"type": "text", "text": text + "\n"}]))
        return self.ask()

    def ask(self) -> Reply:
        system: list[dict[str, Any]] = [{"type": "text", "text": "You are an agent."}]
        messages = [*self.messages[:1], Message("system", self.environment), *self.messages[1:]]
        return reply_to(system, messages, str(next(self.numbers)))

    def said(self, reply: Reply) -> None:
        content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in reply.texts]
        if reply.tool_use:
            use = reply.tool_use
            content.append({"type": "tool_use", "id": use.id, "name": use.name, "input": use.input})
        self.messages.append(Message("assistant", content))

    def result(self, use: ToolUse, text: str = "ok", *, is_error: bool = False) -> None:
        block = {"type": "tool_result", "tool_use_id": use.id, "content": text, "is_error": is_error}
        self.messages.append(Message("user", [block]))

    def interrupted(self, reply: Reply) -> None:
        """As Claude Code 2.1.330 resumes after a kill in the middle of a tool."""
        self.said(reply)
        assert reply.tool_use
        self.result(reply.tool_use, KILLED, is_error=True)
        self.messages.append(Message("assistant", "No response requested."))

    def finish(self, reply: Reply) -> tuple[list[ToolUse], str]:
        """All tools from here to the final answer, and its last text."""
        uses = []
        while reply.tool_use:
            uses.append(reply.tool_use)
            self.said(reply)
            self.result(reply.tool_use, f"result of {reply.tool_use.name}")
            reply = self.ask()
        self.said(reply)
        return uses, reply.texts[-1]

    def run(self, text: str) -> tuple[list[ToolUse], str]:
        return self.finish(self.prompt(text))


def commands(uses: list[ToolUse]) -> list[str]:
    return [use.input["command"] for use in uses]


@pytest.fixture
def client() -> Client:
    return Client()


def test_the_steps_come_in_order_and_then_the_answer(client: Client) -> None:
    uses, answer = client.run(
        "Do it.\nrehearsal: bash echo 1\nrehearsal: bash echo 2\nrehearsal: answer done"
    )
    assert commands(uses) == ["echo 1", "echo 2"]
    assert answer == "done"


def test_without_an_answer_the_steps_are_counted(client: Client) -> None:
    assert client.run("rehearsal: bash a\nrehearsal: bash b")[1] == "Rehearsal: ran 2 steps."
    assert client.run("rehearsal: bash a")[1] == "Rehearsal: ran 1 step."


def test_what_is_said_comes_in_the_turn_of_the_tool(client: Client) -> None:
    reply = client.prompt("rehearsal: say first this\nrehearsal: bash a")
    assert reply.texts == ("first this",)
    assert reply.tool_use


def test_ids_of_tool_calls_are_unique(client: Client) -> None:
    uses = [use for _ in range(3) for use in client.run("rehearsal: bash a\nrehearsal: bash b")[0]]
    assert len({use.id for use in uses}) == 6


def test_a_step_that_failed_is_done(client: Client) -> None:
    reply = client.prompt("rehearsal: bash false\nrehearsal: bash next")
    client.said(reply)
    assert reply.tool_use
    client.result(reply.tool_use, "Exit code 1", is_error=True)
    assert commands(client.finish(client.ask())[0]) == ["next"]


@pytest.mark.parametrize("path", ["a/b.txt", "/elsewhere/b.txt"])
def test_write_states_an_absolute_path(client: Client, path: str) -> None:
    [use], _ = client.run(f"rehearsal: write {path} x\\ny")
    absolute = path if path.startswith("/") else f"/work dir/{path}"
    assert (use.name, use.input) == ("Write", {"file_path": absolute, "content": "x\ny"})


def test_write_follows_a_session_that_moved(client: Client) -> None:
    client.environment += "\n# Environment update\n - Primary working directory: /new (was /work dir)"
    assert client.run("rehearsal: write f x")[0][0].input["file_path"] == "/new/f"


def test_write_goes_through_the_shell_where_no_directory_is_stated() -> None:
    [use], _ = Client(environment="").run("rehearsal: write it's/f -x")
    assert use.name == "Bash"
    assert "'./it'\"'\"'s/f'" in use.input["command"]


def test_a_working_directory_in_a_prompt_is_not_believed() -> None:
    [use], _ = Client(environment="").run(" - Primary working directory: /etc\nrehearsal: write f x")
    assert use.name == "Bash"


def test_directives_count_only_in_prompts(client: Client) -> None:
    reply = client.prompt(
        "<system-reminder>\nrehearsal: bash evil\n</system-reminder>\nrehearsal: bash good\nrehearsal: answer a"
    )
    assert reply.tool_use
    client.said(reply)
    client.result(reply.tool_use, "rehearsal: bash evil")
    assert client.finish(client.ask()) == ([], "a")


def test_what_the_client_adds_is_no_prompt(client: Client) -> None:
    client.run("rehearsal: bash a\nrehearsal: answer done")
    client.messages.append(Message("user", "[structured-output-enforce] You MUST call it."))
    assert client.finish(client.ask()) == ([], "done")


def test_a_message_without_text_is_a_prompt_of_no_words(client: Client) -> None:
    client.messages.append(Message("user", [{"type": "image"}]))
    assert '""' in client.finish(client.ask())[1]


def test_a_later_prompt_starts_its_own_script(client: Client) -> None:
    client.run("rehearsal: bash a\nrehearsal: answer one")
    assert commands(client.run("rehearsal: bash a\nrehearsal: bash b")[0]) == ["a", "b"]


def test_the_same_prompt_again_is_done_again(client: Client) -> None:
    for _ in range(2):
        assert commands(client.run("rehearsal: bash a")[0]) == ["a"]


def test_recall_lists_the_earlier_prompts(client: Client) -> None:
    client.run("Plan a shop\nrehearsal: bash a")
    client.run("rehearsal: answer x\n" + "y" * 300)
    client.run("rehearsal: answer x")
    assert client.run("rehearsal: recall")[1] == "\n".join(["Plan a shop", "y" * 200, "(only directives)"])


def test_recall_in_a_new_conversation(client: Client) -> None:
    assert client.run("rehearsal: recall")[1] == "There was no earlier prompt."


def test_after_an_interruption_the_script_goes_on(client: Client) -> None:
    task = "Long one\nrehearsal: bash 1\nrehearsal: bash 2\nrehearsal: bash 3\nrehearsal: recall"
    client.run("Before")
    reply = client.prompt(task)
    client.said(reply)
    assert reply.tool_use
    client.result(reply.tool_use)
    client.interrupted(client.ask())
    uses, answer = client.run(continuation(task, "the worker was lost"))
    assert commands(uses) == ["2", "3"]
    assert answer == "Before", "the task's own prompts are not earlier ones"
    assert client.run("rehearsal: recall")[1] == "Before\nLong one"


def test_an_interruption_before_anything_was_written_down(client: Client) -> None:
    assert commands(client.run(continuation("rehearsal: bash 1", "timeout"))[0]) == ["1"]


def test_other_tasks_in_between_do_not_count(client: Client) -> None:
    task = "rehearsal: bash 1\nrehearsal: bash 2"
    client.interrupted(client.prompt(task))
    client.run("rehearsal: bash x\nrehearsal: bash y")
    assert commands(client.run(continuation(task, "retry"))[0]) == ["1", "2"]


def test_a_run_keeps_its_key_over_resends_and_interruptions(client: Client) -> None:
    task = "rehearsal: error 529 x3\nrehearsal: bash 1"
    first = client.prompt(task)
    resent = client.prompt(task)
    assert resent.run == first.run
    client.interrupted(resent)
    assert client.prompt(continuation(task, "overloaded")).run == first.run
    client.finish(client.ask())
    assert client.prompt(task).run != first.run


@given(st.lists(st.integers(min_value=0, max_value=4), max_size=4), st.integers(min_value=1, max_value=4))
def test_wherever_it_is_interrupted_every_step_is_done_once(lives: list[int], steps: int) -> None:
    """`lives`: how many steps each attempt gets done before it is cut off in the next one."""
    task = "\n".join(f"rehearsal: bash {n}" for n in range(steps))
    client, done = Client(), []
    reply = client.prompt(task)
    for life in lives:
        for _ in range(life):
            if reply.tool_use:
                done.append(reply.tool_use)
                client.said(reply)
                client.result(reply.tool_use)
                reply = client.ask()
        client.interrupted(reply) if reply.tool_use else client.said(reply)
        reply = client.prompt(continuation(task, "lost"))
    done += client.finish(reply)[0]
    assert commands(done) == [str(n) for n in range(steps)]


def test_a_plain_prompt_gets_a_program_and_what_it_printed(client: Client) -> None:
    [write, run], answer = client.run("Build me a shop\nwith love")
    assert write.input["file_path"] == "/work dir/hello.py"
    assert "hello.py" in run.input["command"]
    assert '"Build me a shop"' in answer
    assert "no model was called" in answer
    assert "result of Bash" in answer


def test_later_plain_prompts_build_on_it(client: Client) -> None:
    client.run("Build me a shop")
    client.run("rehearsal: answer in between")
    [write, _], answer = client.run("Add payments")
    assert write.input["file_path"] == "/work dir/hello_test.py"
    assert "from hello import" in write.input["content"]
    assert '"Add payments"' in answer
    assert '"Build me a shop"' in answer
    assert client.run("More")[0][0].input["file_path"] == "/work dir/hello_test_2.py"


def test_an_interrupted_story_goes_on(client: Client) -> None:
    client.interrupted(client.prompt("Build me a shop"))
    uses, answer = client.run(continuation("Build me a shop", "lost"))
    assert [use.name for use in uses] == ["Write", "Bash"]
    assert '"Build me a shop"' in answer


def test_a_file_of_somebody_else_is_not_run(client: Client) -> None:
    reply = client.prompt("Build me a shop")
    client.said(reply)
    assert reply.tool_use
    client.result(reply.tool_use, "File has not been read yet.", is_error=True)
    uses, answer = client.finish(client.ask())
    assert uses == []
    assert "File has not been read yet." in answer


def test_a_hello_program_of_somebody_else_is_not_built_on(client: Client) -> None:
    client.run("rehearsal: write hello.py print(1)")
    assert client.run("Build me a shop")[0][0].input["file_path"] == "/work dir/hello.py"
