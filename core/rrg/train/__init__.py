"""Training: a Trainer run per stage, and tables of runs.

Commands and the contract suite import it; it imports generate and all below.
"""
