import sys

from ceeh.sft import main

if __name__ == "__main__":
    sys.exit(main())
