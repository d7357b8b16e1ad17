import sys

from ceeh.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
