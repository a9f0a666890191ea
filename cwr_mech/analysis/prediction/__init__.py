"""Can divergence be told before training?"""
