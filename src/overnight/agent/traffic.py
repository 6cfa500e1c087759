"""How much has passed one of the two doors of a run."""

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Bytes that left the run and came back, and how often it asked: calls of the API, or connections."""

    asked: int = 0
    sent: int = 0
    received: int = 0

    def told(self) -> dict[str, int]:
        return {"asked": self.asked, "sent": self.sent, "received": self.received}
