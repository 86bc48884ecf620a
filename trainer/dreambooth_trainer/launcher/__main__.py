"""`python -m dreambooth_trainer.launcher --config FILE`: a pod of one attempt."""

import sys

from dreambooth_trainer.launcher.launch import main

if __name__ == "__main__":
    sys.exit(main())
