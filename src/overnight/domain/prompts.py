"""What the agent is told when a job goes on after an interruption."""

AS_LEFT = "The files are as you left them, and any steps that you had taken are in this conversation."
AS_STORED = (
    "The files and this conversation are as they were at your last checkpoint, a moment before: your very last "
    "steps may be missing in them."
)
AS_BEFORE = (
    "What you had done for it is lost: the files and this conversation are as they were before the task."
)


def continuation(prompt: str, reason: str, state: str = AS_LEFT) -> str:
    """The prompt of a later attempt; `state` says what the conversation and the files hold of the earlier ones.

    The task stands in it again, because an attempt can die before Claude Code has written the prompt down.
    """
    return (
        f"Your work on the task below was interrupted ({reason}). {state} Look at what is done already, do not do "
        f"it twice, and finish the task.\n\n<task>\n{prompt}\n</task>"
    )
