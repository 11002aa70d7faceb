"""The torch modules that networks build.

They are imported where a network is built, since importing torch takes seconds.
"""
