"""Verification pairs that are read from disk: packs of InsightFace, RFW, lists of pairs, people held out."""

from distill.faces.packs.held_out import MIN_PEOPLE, held_out_facts, held_out_pairs
from distill.faces.packs.settings import PairsSettings

__all__ = ["MIN_PEOPLE", "PairsSettings", "held_out_facts", "held_out_pairs"]
