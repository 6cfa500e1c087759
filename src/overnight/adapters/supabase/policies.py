"""What the operator of a project runs in its SQL editor, once."""

from overnight.adapters.supabase.access import Access

_OPERATIONS = {"read": "select", "create": "insert", "change": "update", "remove": "delete"}


def policies(access: Access) -> str:
    """Bucket and policies. A secret or service_role key needs only the bucket: it passes by all policies."""
    here = (
        f"bucket_id = {_quoted(access.bucket)} and (storage.foldername(name))[1] = {_quoted(access.prefix)}"
    )
    checks = {
        "read": f"using ({here})",
        "create": f"with check ({here})",
        "change": f"using ({here})\n  with check ({here})",
        "remove": f"using ({here})",
    }
    return "\n".join([_bucket(access.bucket), *(_policy(what, check) for what, check in checks.items())])


def _bucket(name: str) -> str:
    return (
        "insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)\n"  # noqa: S608 # nosec B608 - for people to run
        f"  values ({_quoted(name)}, {_quoted(name)}, false, null, array['application/zip'])\n"
        "  on conflict (id) do nothing;"
    )


def _policy(what: str, check: str) -> str:
    return (
        f'create policy "overnight sessions: {what}" on storage.objects for {_OPERATIONS[what]} '
        f"to anon, authenticated\n  {check};"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
