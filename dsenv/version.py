"""The version of dsenv."""

VERSION = "0.1.0"
