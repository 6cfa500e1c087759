"""What the agent is told when a job goes on after an interruption."""


def continuation(prompt: str, reason: str) -> str:
    """The prompt of a later attempt: the conversation and the files are as the last attempt left them.

    The task stands in it again, because an attempt can die before Claude Code has written the prompt down.
    """
    return (
        f"Your work on the task below was interrupted ({reason}). The files are as you left them, and any steps "
        "that you had taken are in this conversation. Look at what is done already, do not do it twice, and "
        f"finish the task.\n\n<task>\n{prompt}\n</task>"
    )
