#!/bin/sh
# Pack what a source build of Asterisk takes, out of Debian's source package of it.
#
# pack-source.sh DIRECTORY leaves asterisk-VERSION.tar.gz, pjproject-VERSION.tar.bz2 and SHA256SUMS
# there. For test machines where upstream's own downloads are out of reach: the tree is upstream's,
# less the parts that are not free. Needs dpkg-dev.
set -eu

# The newest release with a source package of Asterisk 22, and the patches without which its tree,
# of which parts are missing, does not build. The other patches change what is built.
release=forky
patches='2008_disable_ilbc 2013_mp3 2014_pjproject_unbreak'

[ $# -eq 1 ] || {
    echo "usage: pack-source.sh DIRECTORY" >&2
    exit 2
}
mkdir -p "$1"
target=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# An apt of its own: the system's sources of Debian, for another release and for source packages.
mkdir -p lists/partial cache/archives/partial
# shellcheck disable=SC2016 # apt-get fills it in
apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Label: Debian' 'Component: main' |
    sort -u | sed "s|.*|deb-src & $release main|" >sources.list
[ -s sources.list ] || {
    echo "pack-source.sh: apt knows no source of Debian (is apt-get update still to be run?)" >&2
    exit 1
}
cat >apt.conf <<END
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
END
APT_CONFIG=$work/apt.conf
export APT_CONFIG
apt-get --quiet --quiet update
apt-get --quiet --quiet --download-only source asterisk

dpkg-source --no-check --skip-patches --extract ./*.dsc tree
for patch in $patches; do
    patch --quiet --directory=tree --strip=1 <"tree/debian/patches/$patch.patch"
done

version=$(cat tree/.version)
pjproject=pjproject-$(sed -n 's/^PJPROJECT_VERSION=//p' tree/third-party/versions.mak)

# The same content gives the same file, and so the same checksum.
released=$(stat --format=@%Y tree/debian/changelog)
pack() {
    tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="$released" "$@"
}

mv tree/Xpjproject "$pjproject"
pack "$pjproject" | bzip2 >"$pjproject.tar.bz2"
md5sum "$pjproject.tar.bz2" >"tree/third-party/pjproject/$pjproject.tar.bz2.md5"

mv tree/Xmp3 tree/addons/mp3
mv tree "asterisk-$version"
pack --exclude-from=- "asterisk-$version" <<END | gzip --no-name >"asterisk-$version.tar.gz"
asterisk-$version/debian
asterisk-$version/X*
END

rm -f "$target"/asterisk-*.tar.gz "$target"/pjproject-*.tar.bz2
mv "asterisk-$version.tar.gz" "$pjproject.tar.bz2" "$target"
cd "$target"
sha256sum "asterisk-$version.tar.gz" "$pjproject.tar.bz2" >SHA256SUMS
