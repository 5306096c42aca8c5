"""The command line."""

import logging

# Where it is installed, PEFT imports it, and it advises on every command to install yet another package.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
