# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# Boots guests and makes them do things. A guest is one process group; its console, its errors and the replies of its agent
# (guest/init) are files in the run folder: NAME.console, NAME.errors, NAME.replies.
# Reads: here, cache, run, guests, kernel, initramfs. Provides: guest_boot, guest_ready, guest_kill, guest_kill_all, start_in,
# reply_of, run_in, choose_guests.

declare -A guest_group=() guest_port=()
accelerator=tcg # of QEMU; choose_guests may find that kvm works
uml_preload=    # a library that the UML kernel needs on this host, if any

# What a test may want different about a QEMU guest; set before guest_boot.
qemu=qemu-system-x86_64 # the program
qemu_memory=256M
qemu_arguments=()       # further ones
qemu_queues=1           # queue pairs, each with a virtual CPU
qemu_listens=no         # QEMU owns the socket and vfnic connects
qemu_reboots=no         # a reboot in the guest restarts it; else it ends QEMU
qemu_device_options=    # ",host_tso4=off,..."

qemu_version() { "$qemu" --version | sed -n 's/.*version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p'; }

# NAME [SOCKET MAC]: starts a guest, with a NIC when a socket is named. Does not wait.
find_memory() { # A kernel's memory is a file, and a NIC takes none on a disk: in /dev/shm, unless that is as small as in a container.
    memory=/dev/shm
    (($(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) > 2000000)) 2>/dev/null && return
    memory=$run
    [[ $(stat --file-system --format %T "$run") == tmpfs ]] ||
        fail 'no tmpfs has room for the guests: make /dev/shm larger (mount -o remount,size=2G /dev/shm), or set TMPDIR to a folder on another'
}

guest_boot() {
    local name=$1 socket=${2:-} mac=${3:-} port fd
    [[ $guests != uml || -n ${memory:-} ]] || find_memory
    port=$run/$name.agent
    rm -f "$port".* "$run/$name.replies"
    mkfifo "$port.in" "$port.out"
    : >"$run/$name.replies"
    exec {fd}<>"$port.in"
    guest_port[$name]=$fd
    "boot_$guests" "$name" "$socket" "$mac" </dev/null >"$run/$name.console" 2>"$run/$name.errors" &
    guest_group[$name]=$!
    disown # a guest that dies is noticed by its silence; no word from the shell about it
}

boot_uml() {
    local name=$1 socket=$2 device=()
    [[ -n $socket ]] && device=("virtio_uml.device=$socket:1")
    export TMPDIR=$memory
    [[ -n $uml_preload ]] && export LD_PRELOAD=$uml_preload
    exec setsid "$kernel" mem=256M "initrd=$initramfs" "${device[@]}" "umid=$name" "uml_dir=$run/uml" quiet panic=-1 \
        random.trust_cpu=on con=null con0=null,fd:1 ssl=null ssl1=fd:3,fd:4 3<>"$run/$name.agent.in" 4>>"$run/$name.replies"
}

boot_qemu() {
    local name=$1 socket=$2 mac=$3 cpu=host arguments=() version chardev device
    read -r -a version < <(qemu_version)
    # Without erms and fsrm the guest copies eight bytes a step, not one: half of TCG's throughput.
    [[ $accelerator == tcg ]] && cpu=max,la57=off,erms=off,fsrm=off
    if [[ -n $socket ]]; then
        chardev=socket,id=vf,path=$socket
        if [[ $qemu_listens == yes ]]; then
            chardev+=,server=on,wait=off
        elif ((version[0] * 100 + version[1] >= 902)); then
            chardev+=,reconnect-ms=500
        else
            chardev+=,reconnect=1
        fi
        device=virtio-net-pci,netdev=net,mac=$mac,rx_queue_size=1024,romfile=$qemu_device_options
        ((qemu_queues > 1)) && device+=,mq=on,vectors=$((2 * qemu_queues + 2))
        # QEMU 7 crashes when it hands this device's interrupts to a vhost back end without KVM.
        ((version[0] < 8)) && [[ $accelerator == tcg ]] && device+=,vectors=0
        arguments=(-chardev "$chardev" -netdev "vhost-user,id=net,chardev=vf,queues=$qemu_queues" -device "$device")
    fi
    [[ $qemu_reboots == yes ]] || arguments+=(-no-reboot)
    # shellcheck disable=SC2016 # expanded by the inner shell
    exec setsid bash -c 'cat <>"$1" >"$2" & shift 2; exec "$@"' two-hosts-guest "$run/$name.agent.out" "$run/$name.replies" \
        "$qemu" -name "$name" -nodefaults -no-user-config -display none \
        -machine "q35,hpet=off,memory-backend=memory" -accel "$accelerator" -cpu "$cpu" -smp "$qemu_queues" -m "$qemu_memory" \
        -object memory-backend-memfd,id=memory,size=$qemu_memory,share=on \
        -serial "file:$run/$name.kernel" -chardev "pipe,id=agent,path=$run/$name.agent" -serial chardev:agent \
        -kernel "$kernel" -initrd "$initramfs" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable" "${arguments[@]}" "${qemu_arguments[@]}"
}

guest_alive() { kill -0 "${guest_group[$1]}" 2>/dev/null; }

# NAME SECONDS [COUNT]: waits until the guest's agent has said READY (COUNT times: a guest that reboots says it again).
guest_ready() {
    local name=$1 until=$((SECONDS + $2)) count=${3:-1}
    while (($(grep -c '^READY' "$run/$name.replies") < count)); do
        guest_alive "$name" && ((SECONDS < until)) || return 1
        sleep 0.1
    done
}

guest_kill() { # NAME: at once, with all its helpers
    local group=${guest_group[$1]:-} fd=${guest_port[$1]:-}
    [[ -n $group ]] || return 0
    kill -KILL -- "-$group" 2>/dev/null || kill -KILL "$group" 2>/dev/null
    exec {fd}>&-
    unset "guest_group[$1]" "guest_port[$1]"
}

guest_kill_all() {
    local name
    for name in "${!guest_group[@]}"; do guest_kill "$name"; done
}

# NAME COMMAND: starts a command in the guest; sets `job` to its id.
start_in() {
    job=${EPOCHREALTIME/[.,]/}
    printf '%s %s\n' "$job" "$2" >&"${guest_port[$1]}"
}

reply_so_far() { sed -n "s/\r//; s/^$2: //p" "$run/$1.replies"; } # NAME JOB

# NAME JOB SECONDS: waits for a command's end, prints its output, returns its exit code (124: no answer in time).
reply_of() {
    local until=$((SECONDS + $3)) code
    until code=$(sed -n "s/\r//; s/^$2= //p" "$run/$1.replies") && [[ -n $code ]]; do
        ((SECONDS < until)) || { reply_so_far "$1" "$2"; return 124; }
        sleep 0.1
    done
    reply_so_far "$1" "$2"
    return "$code"
}

run_in() { # NAME SECONDS COMMAND
    local job
    start_in "$1" "$3"
    reply_of "$1" "$job" "$2"
}

# --- which kind of guest works here ------------------------------------------------------------------------------------

# SECONDS: boots one guest without a NIC. The answer is remembered until the host or the guest changes.
boots_within() {
    local key answer
    key=$(echo "$initramfs $guests $accelerator $uml_preload" "$(cat /proc/sys/kernel/random/boot_id)" | sha256sum | cut -c 1-16)
    answer=$cache/probe-$key
    if [[ ! -f $answer ]]; then
        guest_boot probe
        if guest_ready probe "$1"; then echo yes >"$answer"; else echo no >"$answer"; fi
        guest_kill probe
    fi
    grep -q yes "$answer"
}

# User-Mode Linux works wherever ptrace does, but on a CPU with AMX only with a preloaded library, which needs a compiler.
uml_works() {
    uml_preload=
    boots_within 20 && return
    if grep -q 'fp regs' "$run"/probe.{console,errors} 2>/dev/null || grep -qw amx_tile /proc/cpuinfo; then
        type -P cc >/dev/null || { note "User-Mode Linux needs a C compiler on this CPU (AMX)"; return 1; }
        uml_preload=$cache/uml-fpregs-$(sha256sum <"$here/guest/uml-fpregs.c" | cut -c 1-16).so
        [[ -f $uml_preload ]] || cc -O2 -shared -fPIC -o "$uml_preload" "$here/guest/uml-fpregs.c" -ldl || return 1
        boots_within 20 && return
    fi
    return 1
}

# A /dev/kvm that opens need not be able to boot an ordinary kernel (nested para-virtual KVM cannot): only a boot tells.
choose_accelerator() {
    accelerator=tcg
    [[ -r /dev/kvm && -w /dev/kvm ]] || return 0
    accelerator=kvm
    boots_within 8 && return
    note "/dev/kvm is there but does not boot this kernel: emulating the CPU instead (TCG)"
    accelerator=tcg
}

# Sets up everything for `guests` (uml, qemu, or empty for the best that works): programs, image, accelerator.
choose_guests() {
    local asked=$guests
    mkdir -p "$cache"
    if [[ $asked != qemu ]]; then
        guests=uml
        need_programs
        if build_image && uml_works; then return; fi
            [[ -z $asked ]] || fail "User-Mode Linux does not boot here, see $run/probe.console"
        note "User-Mode Linux does not boot here: using QEMU"
    fi
    guests=qemu
    need_programs
    build_image || fail "cannot build the guest"
    choose_accelerator
    boots_within 60 || fail "QEMU does not boot a guest here, see $run/probe.kernel"
}

guest_kind() { # in words
    case $guests-$accelerator in
    uml-*) echo "User-Mode Linux $release guests" ;;
    qemu-kvm) echo "QEMU/KVM guests (Linux $release)" ;;
    qemu-tcg) echo "QEMU guests without KVM (Linux $release)" ;;
    esac
}
