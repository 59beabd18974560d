# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# The guest: a distribution kernel and an initramfs of busybox, iperf3, the virtio modules and guest/init.
# Reads: here, cache, guests, tool. Provides: guest_programs, guest_files, guest_modules, guest_kernel (what an example may want besides), build_image; sets kernel (file), initramfs (file), release (of the kernel).

guest_programs=()                         # further programs in the guest
guest_files=()                            # and files at their own places, with the libraries that they are linked with
guest_modules=(virtio_pci virtio_net)     # its drivers
guest_kernel=linux-image-cloud-amd64      # of QEMU's guests, a package or a folder with one unpacked; linux-image-amd64 has drivers of real hardware, too

# Unpacks the kernel of the chosen kind of guest; sets kernel, module_root, release.
unpack_kernel() {
    local package folder modules
    case $guests in
    uml)
        package=user-mode-linux
        ;;
    qemu)
        [[ $guest_kernel == */* ]] || open_package_index "a kernel"
        package=$(apt-cache "${apt_options[@]}" depends "$guest_kernel" 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }')
        : "${package:=$guest_kernel}"
        ;;
    esac
    [[ $package == */* ]] && folder=$package || folder=$(unpack_package "$package") || { note "cannot get the package $package"; return 1; }
    if [[ $guests == uml ]]; then
        kernel=$folder/usr/bin/linux.uml
        modules=$folder/usr/lib/uml/modules
    else
        kernel=$(echo "$folder"/boot/vmlinuz-*)
        modules=$(find "$folder/lib/modules" "$folder/usr/lib/modules" -maxdepth 0 2>/dev/null | head -n 1)
    fi
    release=$(basename "$modules"/*)
    # modprobe looks for lib/modules below a folder of our choice.
    module_root=$folder/module-root
    if [[ ! -f $module_root/lib/modules/$release/modules.dep ]]; then
        mkdir -p "$module_root/lib"
        ln -sfn "$modules" "$module_root/lib/modules"
        depmod -b "$module_root" "$release" || return 1
    fi
}

add_program() { # ROOT FILE: the program and the libraries that it is linked with
    install -D "$(realpath "$2")" "$1/usr/bin/$(basename "$2")"
    add_libraries "$1" "$2"
}

add_libraries() { # ROOT FILE: those that it is linked with
    local root=$1 file=$2 library
    { ldd "$file" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
        add_file "$root" "$library"
    done
}

add_file() { # ROOT FILE: where it really is, and its name as a link to that: two copies of a library would be two libraries
    local real
    real=$(realpath "$2")
    [[ -f $1$real ]] || install -D "$real" "$1$real"
    [[ $real == "$2" ]] || { mkdir -p "$1$(dirname "$2")" && ln -sfn "$real" "$1$2"; }
}

add_modules() { # ROOT: the drivers, uncompressed, and the order to load them in
    local root=$1 file name
    mkdir -p "$root/modules"
    for name in "${guest_modules[@]}" af_packet; do
        modprobe -d "$module_root" -S "$release" --show-depends "$name" 2>/dev/null | awk '$1 == "insmod" { print $2 }' || true
    done | awk '!seen[$0]++' | while read -r file; do
        name=$(basename "$file")
        case $name in
        *.xz) xz -dc "$file" >"$root/modules/${name%.xz}" ;;
        *.zst) zstd -qdc "$file" >"$root/modules/${name%.zst}" ;;
        *) cp "$file" "$root/modules/$name" ;;
        esac
        name=${name%.xz}
        echo "${name%.zst}"
    done >"$root/modules/order"
}

build_image() {
    local programs=("$(type -P iperf3)") folder key root file program
    for program in "${guest_programs[@]}"; do programs+=("$(type -P "$program")"); done
    unpack_kernel || return 1
    if [[ $tool == netperf ]]; then
        folder=$(unpack_package netperf) || fail "netperf is not to be had (Debian: component non-free); use --tool iperf3"
        programs+=("$folder/usr/bin/netperf" "$folder/usr/bin/netserver")
    fi
    key=$(cat "$here/guest/init" "$here/lib/image.sh" "$(type -P busybox)" "${programs[@]}" "${guest_files[@]}" <(echo "$kernel ${guest_modules[*]}") | sha256sum | cut -c 1-16)
    initramfs=$cache/initramfs-$key.gz
    [[ -f $initramfs ]] && return
    root=$(mktemp -d "$cache/root.XXXXXX")
    mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,usr/bin}
    cp "$(type -P busybox)" "$root/bin/busybox"
    install -m 755 "$here/guest/init" "$root/init"
    for file in "${programs[@]}"; do add_program "$root" "$file"; done
    for file in "${guest_files[@]}"; do
        add_file "$root" "$file"
        add_libraries "$root" "$file"
    done
    add_modules "$root"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
    echo 'hosts: files' >"$root/etc/nsswitch.conf"
    echo 'root:x:0:0::/:/bin/sh' >"$root/etc/passwd"
    (cd "$root" && find . -print0 | cpio --null --create --format newc --quiet | gzip -1) >"$initramfs.new" || return 1
    mv "$initramfs.new" "$initramfs"
    rm -rf "$root"
    note "image: $initramfs ($(stat -c %s "$initramfs") bytes, kernel $release)"
}
