"""Render reply data as text or JSON."""
