"""Sections of the feature study's page, one file each: `PLAN` says what it needs, `values(view)` what it has.

A section reads tables through the view, computes nothing but sums and orders, and hands values to the
template of the same name in `templates/`.
"""
