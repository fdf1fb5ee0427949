"""The command-line programs."""

import os

# TensorFlow reads it when it is first imported; what it would say is about its own build
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
