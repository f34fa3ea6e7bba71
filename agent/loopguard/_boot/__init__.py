"""What the launcher puts first on ``PYTHONPATH``; see sitecustomize.py."""
