"""The retrieval index, its search, and the choice of reference reports.

Training and generation import it; it imports feed and below.
"""
