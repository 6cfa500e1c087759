"""Archives in Supabase Storage, by its REST API and its resumable uploads."""

from overnight.adapters.supabase.access import Access
from overnight.adapters.supabase.policies import policies
from overnight.adapters.supabase.store import SupabaseArchives, supabase_archives

__all__ = ["Access", "SupabaseArchives", "policies", "supabase_archives"]
