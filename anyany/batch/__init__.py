"""Batches: a folder or a manifest in, a folder an item out, whatever happens on the way.

    manifest ──► validate ──► source ──► engine (workers) ──► store
    (lines)      (all first)  (hash,     (local processes,    (rename, ledger,
                               dedupe)    or Ray actors)       results.jsonl)

A run that was interrupted or killed goes on where it was; the same manifest, settings and seed
give the same bytes whatever the number of workers, the order, the shards, the engine or the
interruptions. torch loads in the workers alone.
"""

from anyany.batch.functions import DryFactory, Factory, Function, SystemFactory
from anyany.batch.manifest import Manifest, open_manifest
from anyany.batch.run import ManifestError, Run, RunOptions, Summary, validate
from anyany.batch.store import Store
from anyany.batch.tables import Columns

__all__ = [
    "Columns",
    "DryFactory",
    "Factory",
    "Function",
    "Manifest",
    "ManifestError",
    "Run",
    "RunOptions",
    "Store",
    "Summary",
    "SystemFactory",
    "open_manifest",
    "validate",
]
