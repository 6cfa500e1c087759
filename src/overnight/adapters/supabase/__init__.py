"""Archives in Supabase Storage, by its REST API and its resumable uploads."""

from overnight.adapters.supabase.access import ROOT, Access
from overnight.adapters.supabase.policies import policies
from overnight.adapters.supabase.store import SupabaseArchives, supabase_archives

__all__ = ["ROOT", "Access", "SupabaseArchives", "policies", "supabase_archives"]
