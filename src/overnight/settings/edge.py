"""The settings of a worker whose jobs come from the Cloudflare front."""

from pydantic import AliasChoices, Field, SecretStr

from overnight.settings.forms import Group, Url


class EdgeSettings(Group):
    """A worker of an edge"""

    edge_url: Url | None = Field(
        None,
        description="The edge (docs/edge.md) whose jobs `overnight worker` runs; without it, those of a service on "
        "this machine.",
    )
    ledger_token: SecretStr | None = Field(None, description="What opens the edge's ledger to this worker.")
    keys: SecretStr | None = Field(
        None,
        description="The edge's API keys as it has them, hashed: a worker signs webhooks with their secrets.",
    )
    cloudflare_account_id: str | None = Field(
        None,
        validation_alias=AliasChoices("CLOUDFLARE_ACCOUNT_ID"),
        description="The account of the edge's queue.",
    )
    cloudflare_api_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("CLOUDFLARE_API_TOKEN"),
        description="A token with the permissions Queues Read and Write.",
    )
    cloudflare_api_url: Url = Field(
        "https://api.cloudflare.com/client/v4",
        description="Cloudflare's API, which the queue is pulled from.",
    )
    cloudflare_queue_id: str | None = Field(None, description="The id of the queue `claude-code-queue`.")
