# Writes an archive of $1 to standard output, and its hash to standard error.
set -e
set -o pipefail
from=$1
[ -e "$from" ] || { echo "There is no $from in the guest" >&2; exit 1; }
[ ! -L "$from" ] || from=$(realpath "$from")
cd "$(dirname -- "$from")"
{ tar -c -f - "./$(basename -- "$from")" | tee /dev/fd/3 | sha256sum >&2; } 3>&1
