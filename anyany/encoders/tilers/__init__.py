"""Tilers cut one media item into tiles; each tile is encoded by itself."""
