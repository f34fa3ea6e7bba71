/*
 * lg_segment.c - makes the segment of this process, and ends it.
 *
 * One thread creates and closes. Nothing here is on a request's path. Every
 * failure is returned with nothing left behind; there is no repair code.
 */
#include "lg_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "lg_atomic.h"
#include "lg_error.h"
#include "lg_page.h"
#include "lg_ring.h"

#define SHM_DIR "/dev/shm"
#define MAX_SUFFIX 7                    /* ".1" .. ".7" after the name itself */
#define LOCK_TRIES 20                   /* of 1 ms: a reader may be probing */

static void close_fd_only(struct lg_segment *seg);
static int check_options(const struct lg_segment_options *options);
static int make_file(const struct lg_segment_options *options, const struct lg_proc_info *proc,
                     struct lg_segment *seg);
static int open_new(const char *dir, const char *name, struct lg_segment *seg);
static int claim_file(int fd, uint32_t mode);
static int lock_file(int fd);
static int reserve(struct lg_segment *seg, size_t size_bytes);
static int allocate(int fd, off_t size_bytes);
static void bind_sections(struct lg_segment *seg, const struct lg_plan *plan);
static void fill_tables(struct lg_segment *seg);
static void fill_rings(struct lg_segment *seg);
static bool path_is_ours(const struct lg_segment *seg);

int
lg_segment_create(const struct lg_segment_options *options, struct lg_segment *out)
{
    struct lg_segment seg = {.fd = -1, .owner_pid = getpid()};
    struct lg_proc_info proc = options->proc;
    struct lg_config_info config = options->config;
    struct lg_plan plan;
    int err = check_options(options);
    if (err != 0) {
        return err;
    }
    lg_plan_segment(&plan, options->endpoints != 0 ? options->endpoints : 256);
    err = lg_page_describe(&proc);
    if (err != 0) {
        return err;
    }
    err = make_file(options, &proc, &seg);
    if (err != 0) {
        return err;
    }
    err = reserve(&seg, plan.size_bytes);
    if (err != 0) {
        unlink(seg.path);
        close(seg.fd);
        return err;
    }
    bind_sections(&seg, &plan);
    config.max_endpoints = seg.endpoint_count;
    config.segment_mode = options->mode != 0 ? options->mode : 0600;
    lg_page_fill(seg.base, &plan, &proc, &config, LG_STATE_RUNNING);
    fill_tables(&seg);
    fill_rings(&seg);
    lg_page_publish(seg.base);
    *out = seg;
    return 0;
}

void
lg_segment_close(struct lg_segment *seg, bool keep)
{
    void *base = seg->base;
    size_t size = seg->size;
    lg_segment_leave(seg, keep);
    if (base != NULL) {
        munmap(base, size);
    }
}

void
lg_segment_leave(struct lg_segment *seg, bool keep)
{
    if (seg->base == NULL) {
        return;
    }
    if (seg->owner_pid != getpid()) {
        close_fd_only(seg);             /* a fork's copy: the file is the parent's */
        return;
    }
    /* Whoever sees "exited" sees all that was written. Pairs with the copy of
     * the header page, which readers take before any section. */
    lg_store32_release(&seg->header->state, LG_STATE_EXITED);
    if (!keep && path_is_ours(seg)) {
        unlink(seg->path);
    }
    close_fd_only(seg);
}

void
lg_segment_forget(struct lg_segment *seg)
{
    void *base = seg->base;
    size_t size = seg->size;
    close_fd_only(seg);
    if (base != NULL) {
        munmap(base, size);
    }
}

/* Empties `seg`, closes its descriptor; the mapping is the caller's. */
static void
close_fd_only(struct lg_segment *seg)
{
    bool open = seg->base != NULL;
    int fd = seg->fd;
    /* The pointers go first: a signal handler in between finds no segment. No
     * LOCK_UN: in a child the lock belongs to the parent's description, too. */
    *seg = (struct lg_segment){.fd = -1};
    if (open) {
        close(fd);
    }
}

static int
check_options(const struct lg_segment_options *options)
{
    uint32_t mode = options->mode != 0 ? options->mode : 0600;
    if (options->endpoints == 1 || options->endpoints > 4096) {
        return -EINVAL;
    }
    /* Readers refuse a file that others may write. */
    return (mode & 0600) == 0600 && (mode & ~0644u) == 0 ? 0 : -EINVAL;
}

/* Opens a new file under the first free name and locks it for life. */
static int
make_file(const struct lg_segment_options *options, const struct lg_proc_info *proc,
          struct lg_segment *seg)
{
    char name[64];
    int err = -EEXIST;
    for (int suffix = 0; suffix <= MAX_SUFFIX && err == -EEXIST; suffix++) {
        int n = snprintf(name, sizeof(name), LG_SEGMENT_PREFIX "%u.%llu", proc->pid,
                         (unsigned long long)proc->start_ticks);
        if (suffix > 0) {
            snprintf(name + n, sizeof(name) - (size_t)n, ".%d", suffix);
        }
        err = open_new(options->dir, name, seg);
    }
    if (err != 0) {
        return err;
    }
    err = claim_file(seg->fd, options->mode != 0 ? options->mode : 0600);
    if (err != 0) {
        unlink(seg->path);
        close(seg->fd);
        seg->fd = -1;
    }
    return err;
}

static int
open_new(const char *dir, const char *name, struct lg_segment *seg)
{
    char shm_name[80];
    int n = snprintf(seg->path, sizeof(seg->path), "%s/%s", dir != NULL ? dir : SHM_DIR, name);
    if (n < 0 || (size_t)n >= sizeof(seg->path)) {
        return -ENAMETOOLONG;
    }
    seg->in_dir = dir != NULL;
    if (seg->in_dir) {
        seg->fd = open(seg->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    }
    else {
        snprintf(shm_name, sizeof(shm_name), "/%s", name);
        seg->fd = shm_open(shm_name, O_RDWR | O_CREAT | O_EXCL, 0600);  /* sets close-on-exec */
    }
    return seg->fd < 0 ? -errno : 0;
}

static int
claim_file(int fd, uint32_t mode)
{
    struct statfs fs;
    if (fchmod(fd, mode) < 0) {         /* whatever the umask made of it */
        return -errno;
    }
    int err = lock_file(fd);
    if (err != 0) {
        return err;
    }
    if (fstatfs(fd, &fs) < 0) {
        return -errno;
    }
    /* On a disk a plain store can wait for write-back, hundreds of ms long:
     * https://www.evanjones.ca/jvm-mmap-pause.html */
    return fs.f_type == TMPFS_MAGIC ? 0 : LG_ENOTTMPFS;
}

static int
lock_file(int fd)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            return 0;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) {
            return -errno;
        }
        nanosleep(&pause, NULL);
    }
    return -EWOULDBLOCK;
}

/* Every page is backed and present before anybody stores into it: a full
 * tmpfs is an error here and not a SIGBUS in the application later. */
static int
reserve(struct lg_segment *seg, size_t size_bytes)
{
    int err = allocate(seg->fd, (off_t)size_bytes);
    if (err != 0) {
        return err;
    }
    void *base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, seg->fd, 0);
    if (base == MAP_FAILED) {
        return -errno;
    }
    for (size_t at = 0; at < size_bytes; at += 4096) {
        ((volatile uint8_t *)base)[at] = 0;
    }
    (void)mlock(base, size_bytes);      /* a favour; the limit is often small */
    seg->base = base;
    seg->size = size_bytes;
    return 0;
}

static int
allocate(int fd, off_t size_bytes)
{
    struct rlimit limit;
    int err;
    /* Beyond RLIMIT_FSIZE the kernel would send SIGXFSZ to the application. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < (rlim_t)size_bytes) {
        return -EFBIG;
    }
    do {
        err = posix_fallocate(fd, 0, size_bytes);   /* returns the errno */
    } while (err == EINTR);
    return -err;
}

static void
bind_sections(struct lg_segment *seg, const struct lg_plan *plan)
{
    uint8_t *base = seg->base;
    uint64_t offset[LG_MAX_SECTIONS] = {0};
    uint32_t count[LG_MAX_SECTIONS] = {0};
    for (uint32_t i = 0; i < plan->count; i++) {
        offset[plan->section[i].kind] = plan->section[i].offset;
        count[plan->section[i].kind] = plan->section[i].count;
    }
    seg->header = seg->base;
    seg->proc = (void *)(base + offset[LG_SEC_PROC]);
    seg->config = (void *)(base + offset[LG_SEC_CONFIG]);
    seg->anchor = (void *)(base + offset[LG_SEC_ANCHOR]);
    seg->self = (void *)(base + offset[LG_SEC_SELF]);
    seg->features = (void *)(base + offset[LG_SEC_FEATURES]);
    seg->tables = (void *)(base + offset[LG_SEC_TABLES]);
    seg->strings = (void *)(base + offset[LG_SEC_STRINGS]);
    seg->endpoints = (void *)(base + offset[LG_SEC_ENDPOINTS]);
    seg->hists = (void *)(base + offset[LG_SEC_HISTS]);
    seg->loops = (void *)(base + offset[LG_SEC_LOOPS]);
    seg->endpoint_history = (void *)(base + offset[LG_SEC_ENDPOINT_HISTORY]);
    seg->loop_history = (void *)(base + offset[LG_SEC_LOOP_HISTORY]);
    seg->stalls = (void *)(base + offset[LG_SEC_STALLS]);
    seg->pool = (void *)(base + offset[LG_SEC_POOL]);
    seg->writers = (void *)(base + offset[LG_SEC_WRITERS]);
    seg->rings = (void *)(base + offset[LG_SEC_RING_HEADS]);
    seg->slots = (void *)(base + offset[LG_SEC_RING_SLOTS]);
    seg->stacks = (void *)(base + offset[LG_SEC_STACKS]);
    seg->frames = (void *)(base + offset[LG_SEC_FRAMES]);
    seg->string_bytes = count[LG_SEC_STRINGS];
    seg->endpoint_count = count[LG_SEC_ENDPOINTS];
    seg->loop_count = count[LG_SEC_LOOPS];
    seg->stall_count = count[LG_SEC_STALLS];
    seg->stack_count = count[LG_SEC_STACKS];
    seg->frame_count = count[LG_SEC_FRAMES];
    seg->feature_count = count[LG_SEC_FEATURES];
    seg->hist_count = count[LG_SEC_HISTS];
}

/* Slot 0 of each table, and the first pair of clocks. Plain stores will do:
 * no reader looks before the magic. */
static void
fill_tables(struct lg_segment *seg)
{
    const struct lg_proc_info *proc = seg->proc;
    seg->strings_used = 8;              /* id 0: length 0, NUL, padding */
    seg->frames_used = 1;               /* frame 0: "no further frame" */
    seg->tables->strings_used = seg->strings_used;
    seg->tables->frames_used = seg->frames_used;
    seg->tables->stacks_used = 1;       /* stack 0: depth 0, "(other stacks)" */
    uint32_t other = lg_strings_append(seg, "(other)", 7);
    seg->endpoints[0].key = LG_ENDPOINT_KEY(other, LG_KIND_REQUEST, LG_METHOD_NONE);
    seg->tables->endpoints_used = 1;
    *seg->anchor = (struct lg_anchor){
        .mono_ns = proc->start_mono_ns,
        .real_ns = proc->start_real_ns,
        .boot_ns = proc->start_boot_ns,
        .uncertainty_ns = proc->start_uncertainty_ns,
    };
}

/* All heads get their slots; the writers bind to them with lg_ring_init(). */
static void
fill_rings(struct lg_segment *seg)
{
    static const enum lg_ring_class class_of[LG_RINGS] = {
        [LG_RING_REQUESTS] = LG_RING_BULK,
        [LG_RING_EVENTS] = LG_RING_RARE,
        [LG_RING_WATCHDOG] = LG_RING_RARE,
    };
    uint64_t first_slot = 0;
    for (uint32_t i = 0; i < LG_RINGS; i++) {
        struct lg_ring_writer unused;
        uint64_t slots = i == LG_RING_REQUESTS ? LG_RING_SLOTS_REQUESTS
                         : i == LG_RING_EVENTS ? LG_RING_SLOTS_EVENTS
                                               : LG_RING_SLOTS_REST;
        lg_ring_init(&unused, &seg->rings[i], seg->slots, first_slot, slots, class_of[i]);
        seg->rings[i].writer = i == LG_RING_WATCHDOG ? 1 : 0;
        first_slot += slots;
    }
    seg->writers[0].role_tid = LG_PAIR(LG_WRITER_GIL, 0);
    seg->writers[0].rings = 1u << LG_RING_REQUESTS | 1u << LG_RING_EVENTS;
    seg->writers[1].role_tid = LG_PAIR(LG_WRITER_WATCHDOG, 0);
    seg->writers[1].rings = 1u << LG_RING_WATCHDOG;
}

/* False where the name leads elsewhere by now (another mount namespace, or
 * pruned and made anew): what is not ours is not unlinked. */
static bool
path_is_ours(const struct lg_segment *seg)
{
    struct stat ours;
    struct stat there;
    return fstat(seg->fd, &ours) == 0 && lstat(seg->path, &there) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}
