# Reads an archive with `tree`, the names of its files in order (`list`, each ended by a zero byte), and the hash of all
# their bytes (`sum`). $1: where to; $2: the name in a directory that is there.
set -e
fail() { echo "$1" >&2; exit 1; }
to=$1
case $to in */) [ -d "$to" ] || fail "There is no directory $to in the guest" ;; esac
[ ! -d "$to" ] || to=${to%/}/$2
dir=$(dirname -- "$to")
[ -d "$dir" ] || fail "There is no directory $dir in the guest; make it first"
[ ! -d "$to" ] || fail "There is a directory $to in the guest already; remove it first, or name another"
tmp=$dir/.kata-cp-$$-$(date +%s)
trap 'exit 129' HUP INT PIPE TERM
trap 'rm -rf "$tmp"' EXIT
mkdir -m 700 "$tmp"
cd "$tmp"
tar -x -p -f - || fail "The guest could not unpack what was sent; is there room in $dir?"
[ -f list ] && [ -f sum ] || fail "What was sent did not come whole"
[ "$(xargs -0 -r cat <list | sha256sum | cut -d ' ' -f 1)" = "$(cat sum)" ] ||
	fail "What is in the guest is not what was sent; try again"
mv -f tree "$to"
