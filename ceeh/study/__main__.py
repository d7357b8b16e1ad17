import sys

from ceeh.study import main

if __name__ == "__main__":
    sys.exit(main())
