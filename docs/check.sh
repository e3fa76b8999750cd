#!/usr/bin/env bash
# Holds the book against the code. Fails, with file and line, if
#   an include names a missing file or anchor,
#   a chapter names a test that its file does not have (list items of the form: - `name` in `path`),
#   a chapter after the notation names no test at all,
#   a chapter names a path of the repository that does not exist,
#   an equation number in the book stands nowhere in the code,
#   a link or an entry of the summary leads nowhere, or a chapter is not in the summary.
# Run from anywhere; needs bash, grep, awk and sed.
set -euo pipefail

cd "$(dirname "$0")/.."
src=docs/src
failures=0
checked=0

fail() {
    echo "$1" >&2
    failures=$((failures + 1))
}

# Every match of a pattern, as line:match.
matches() {
    grep -noE "$2" "$1" || true
}

# Whether a file has a function of that name right behind a #[test].
has_test() {
    awk -v name="$2" '
        /#\[test\]/ { test = 1; next }
        test && $0 ~ "fn " name "[(<]" { found = 1 }
        /fn / { test = 0 }
        END { exit !found }' "$1"
}

for chapter in "$src"/*.md; do
    # Includes.
    while IFS=: read -r line path anchor; do
        [ -n "$path" ] || continue
        checked=$((checked + 1))
        file="$src/$path"
        if [ ! -f "$file" ]; then
            fail "$chapter:$line: includes $path, which does not exist"
        elif [ -n "$anchor" ]; then
            for mark in ANCHOR ANCHOR_END; do
                count=$(grep -cE "$mark: $anchor\$" "$file" || true)
                [ "$count" = 1 ] || fail "$chapter:$line: $path has $count lines '$mark: $anchor', expected 1"
            done
        fi
    done < <(matches "$chapter" '\{\{#[a-z_]*include [^}]*\}\}' | sed -E 's/\{\{#[a-z_]*include +([^} ]*) *\}\}/\1/')

    # Tests.
    tests=0
    while IFS='|' read -r line name path; do
        [ -n "$name" ] || continue
        checked=$((checked + 1))
        tests=$((tests + 1))
        if [ ! -f "$path" ]; then
            fail "$chapter:$line: names the test $name in $path, which does not exist"
        elif ! has_test "$path" "$name"; then
            fail "$chapter:$line: $path has no test $name"
        fi
    done < <(matches "$chapter" '^- `[a-z0-9_]+` in `[^`]+`' | sed -E 's/^([0-9]+):- `([a-z0-9_]+)` in `([^`]+)`/\1|\2|\3/')
    case "$chapter" in
        */SUMMARY.md | */introduction.md) ;;
        *) [ "$tests" -gt 0 ] || fail "$chapter: names no test" ;;
    esac

    # Paths of the repository.
    while IFS=: read -r line path; do
        [ -n "$path" ] || continue
        checked=$((checked + 1))
        [ -e "$path" ] || fail "$chapter:$line: names $path, which does not exist"
    done < <(matches "$chapter" '`(crates|tests|docs|datasets|src)/[A-Za-z0-9_./-]*`' | tr -d '`')

    # Equation numbers.
    while IFS=: read -r line number; do
        [ -n "$number" ] || continue
        checked=$((checked + 1))
        grep -rqF --include='*.rs' "($number)" crates || fail "$chapter:$line: equation ($number) stands nowhere in the code"
    done < <(matches "$chapter" '[({](ad|bn|compose|conv|fold|ft|md|pend)\.[0-9]+[)}]' | tr -d '(){}')

    # Links.
    while IFS=: read -r line target; do
        [ -n "$target" ] || continue
        checked=$((checked + 1))
        [ -f "$src/$target" ] || fail "$chapter:$line: links to $target, which does not exist"
    done < <(matches "$chapter" '\]\([a-z-]+\.md' | sed -E 's/\]\(//')

    name=$(basename "$chapter")
    [ "$name" = SUMMARY.md ] || grep -qF "($name)" "$src/SUMMARY.md" || fail "$chapter: not in the summary"
done

if [ "$failures" -gt 0 ]; then
    echo "docs: $failures of $checked references lead nowhere" >&2
    exit 1
fi
echo "docs: all $checked references lead somewhere"
