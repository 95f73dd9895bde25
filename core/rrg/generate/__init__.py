"""Writing reports: a trained run opened, reports of films and of splits.

Commands, training and the report page import it; it imports retrieve, feed, evaluate and below.
"""
