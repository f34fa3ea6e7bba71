/*
 * shared.c - see shared.h.
 */
#include "shared.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../common/lg_crc32c.h"
#include "../common/lg_proc.h"

#define PREFIX "loopguard-sums."
#define MAGIC "LGSUMS\x1a\n"
#define VERSION 1
#define MAX_BYTES (UINT64_C(32) << 20)
#define MAX_NONCES 16384                /* older segments are long gone */
#define LOCK_TRIES 20                   /* of 1 ms */

struct head {
    char magic[8];
    uint32_t version;
    uint32_t crc32c;                    /* of what follows this head */
    uint64_t generation;
    uint64_t length;                    /* of what follows this head */
    uint32_t nonces;
    uint32_t families;
};

/* Bytes in the making, or being taken apart. */
struct bytes {
    uint8_t *at;
    size_t size;
    size_t room;
    size_t next;
    bool failed;
};

static void forget(struct lg_shared *shared);
static int open_locked(const char *path);
static bool is_ours(int fd);
static bool has_name(int fd, const char *path);
static void read_file(struct lg_shared *shared);
static bool take_apart(struct lg_shared *shared, const struct head *head, struct bytes *from);
static void write_file(struct lg_shared *shared);
static void put(struct bytes *to, const void *from, size_t size);
static const void *take(struct bytes *from, size_t size);
static bool know(struct lg_shared *shared, uint64_t nonce);
static void remove_orphans(const char *dir, uint64_t ns_pid);
static uint64_t start_of(uint32_t pid);

void
lg_shared_init(struct lg_shared *shared)
{
    *shared = (struct lg_shared){.lock = -1};
    lg_families_init(&shared->sums);
}

void
lg_shared_free(struct lg_shared *shared)
{
    lg_families_free(&shared->sums);
    free(shared->nonce);
    if (shared->lock >= 0) {
        close(shared->lock);
    }
}

void
lg_shared_name(struct lg_shared *shared, const char *dir, const struct lg_proc_info *self,
               const char *app)
{
    char path[sizeof(shared->path)];
    const char *name = app != NULL ? app : self->app;
    uint32_t parent = app != NULL ? 0 : self->ppid;
    int n = snprintf(path, sizeof(path), "%s/" PREFIX "%" PRIu64 ".%u.%" PRIu64 ".%08x", dir,
                     self->ns_pid, parent, parent != 0 ? start_of(parent) : 0,
                     lg_crc32c(name, strnlen(name, sizeof(self->app))));
    if (n <= 0 || (size_t)n >= sizeof(path) || strcmp(path, shared->path) == 0) {
        return;
    }
    forget(shared);
    memcpy(shared->path, path, sizeof(path));
    remove_orphans(dir, self->ns_pid);
}

void
lg_shared_begin(struct lg_shared *shared)
{
    shared->changed = false;
    if (shared->path[0] != '\0') {
        shared->lock = open_locked(shared->path);
        /* Held by another for long: next time. All else will not pass. */
        shared->alone = shared->alone || (shared->lock < 0 && shared->lock != -EAGAIN);
    }
    if (shared->lock >= 0) {
        read_file(shared);
    }
}

bool
lg_shared_ready(const struct lg_shared *shared)
{
    return shared->path[0] == '\0' || shared->lock >= 0 || shared->alone;
}

bool
lg_shared_knows(const struct lg_shared *shared, const struct lg_geometry *geo)
{
    for (uint32_t i = shared->nonce_count; i > 0; i--) {
        if (shared->nonce[i - 1] == geo->header.nonce) {
            return true;
        }
    }
    return false;
}

int
lg_shared_bury(struct lg_shared *shared, const struct lg_geometry *geo, const uint8_t *bytes)
{
    if (!know(shared, geo->header.nonce)) {
        return -ENOMEM;
    }
    shared->changed = true;
    return lg_families_account(&shared->sums, geo, bytes, 0);
}

void
lg_shared_end(struct lg_shared *shared)
{
    if (shared->lock < 0) {
        return;
    }
    if (shared->changed) {
        write_file(shared);
    }
    close(shared->lock);
    shared->lock = -1;
}

static void
forget(struct lg_shared *shared)
{
    lg_families_clear(&shared->sums);
    shared->nonce_count = 0;
    shared->generation = 0;
    shared->alone = false;
}

/* The file is replaced as a whole, so the lock is worth something only on the
 * one that still bears the name. */
static int
open_locked(const char *path)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    for (int i = 0; i < LOCK_TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
            return -errno;
        }
        if (!is_ours(fd)) {
            close(fd);
            return -EPERM;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 && has_name(fd, path)) {
            return fd;
        }
        close(fd);
        nanosleep(&pause, NULL);
    }
    return -EAGAIN;
}

/* Not a trap that another user laid. */
static bool
is_ours(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
           (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static bool
has_name(int fd, const char *path)
{
    struct stat open;
    struct stat named;
    return fstat(fd, &open) == 0 && stat(path, &named) == 0 && open.st_ino == named.st_ino &&
           open.st_dev == named.st_dev;
}

/* Only what is newer than what we hold; bytes that are not ours to understand
 * are written over when there is something to write. */
static void
read_file(struct lg_shared *shared)
{
    struct head head;
    if (pread(shared->lock, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        memcmp(head.magic, MAGIC, sizeof(head.magic)) != 0 || head.version != VERSION ||
        head.families != LG_FAMILY_COUNT || head.length > MAX_BYTES || head.nonces > MAX_NONCES ||
        head.generation == shared->generation) {
        return;
    }
    struct bytes from = {.size = (size_t)head.length};
    from.at = malloc(from.size + 1);
    if (from.at != NULL &&
        pread(shared->lock, from.at, from.size, sizeof(head)) == (ssize_t)from.size &&
        lg_crc32c(from.at, from.size) == head.crc32c) {
        forget(shared);
        if (take_apart(shared, &head, &from)) {
            shared->generation = head.generation;
        }
        else {
            forget(shared);
        }
    }
    free(from.at);
}

static bool
take_apart(struct lg_shared *shared, const struct head *head, struct bytes *from)
{
    for (uint32_t i = 0; i < head->nonces; i++) {
        uint64_t nonce;
        const void *at = take(from, sizeof(nonce));
        if (at == NULL) {
            return false;
        }
        memcpy(&nonce, at, sizeof(nonce));
        if (!know(shared, nonce)) {
            return false;
        }
    }
    for (int f = 0; f < LG_FAMILY_COUNT; f++) {
        struct lg_sums *table = &shared->sums.table[f];
        uint32_t count;
        const void *at = take(from, sizeof(count));
        if (at == NULL) {
            return false;
        }
        memcpy(&count, at, sizeof(count));
        for (uint32_t i = 0; i < count; i++) {
            uint32_t length;
            const void *key = NULL;
            const void *words = NULL;
            at = take(from, sizeof(length));
            if (at != NULL) {
                memcpy(&length, at, sizeof(length));
                key = take(from, length);
                words = take(from, table->words * sizeof(uint64_t));
            }
            uint64_t *to = words != NULL ? lg_sums_at(table, key, length) : NULL;
            if (to == NULL) {
                return false;
            }
            memcpy(to, words, table->words * sizeof(uint64_t));
        }
    }
    return true;
}

/* Written beside and renamed: a reader finds the old or the new. */
static void
write_file(struct lg_shared *shared)
{
    char beside[sizeof(shared->path) + 8];
    struct bytes to = {0};
    struct head head = {
        .magic = MAGIC,
        .version = VERSION,
        .generation = shared->generation + 1,
        .nonces = shared->nonce_count,
        .families = LG_FAMILY_COUNT,
    };
    put(&to, shared->nonce, shared->nonce_count * sizeof(*shared->nonce));
    for (int f = 0; f < LG_FAMILY_COUNT; f++) {
        const struct lg_sums *table = &shared->sums.table[f];
        put(&to, &table->count, sizeof(table->count));
        for (uint32_t i = 0; i < table->count; i++) {
            put(&to, &table->entry[i].length, sizeof(table->entry[i].length));
            put(&to, lg_sums_key(table, i), table->entry[i].length);
            put(&to, lg_sums_words(table, i), table->words * sizeof(uint64_t));
        }
    }
    head.length = to.size;
    head.crc32c = to.failed ? 0 : lg_crc32c(to.at, to.size);
    snprintf(beside, sizeof(beside), "%s.new", shared->path);
    (void)unlink(beside);               /* of a writer that died in the middle */
    int fd = to.failed || to.size > MAX_BYTES
                 ? -1
                 : open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0 && write(fd, &head, sizeof(head)) == (ssize_t)sizeof(head) &&
                write(fd, to.at, to.size) == (ssize_t)to.size && rename(beside, shared->path) == 0;
    if (fd >= 0) {
        close(fd);
    }
    free(to.at);
    if (good) {
        shared->generation = head.generation;
    }
    else {
        /* A full tmpfs: from here on these sums are ours alone. */
        (void)unlink(beside);
        shared->alone = true;
    }
}

static void
put(struct bytes *to, const void *from, size_t size)
{
    if (to->failed || size == 0) {
        return;
    }
    if (to->room - to->size < size) {
        size_t room = 2 * (to->room + size + 4096);
        uint8_t *larger = realloc(to->at, room);
        if (larger == NULL) {
            to->failed = true;
            return;
        }
        to->at = larger;
        to->room = room;
    }
    memcpy(to->at + to->size, from, size);
    to->size += size;
}

static const void *
take(struct bytes *from, size_t size)
{
    if (size > from->size - from->next) {
        return NULL;
    }
    const void *at = from->at + from->next;
    from->next += size;
    return at;
}

static bool
know(struct lg_shared *shared, uint64_t nonce)
{
    if (shared->nonce_count == MAX_NONCES) {
        uint32_t half = MAX_NONCES / 2;
        memmove(shared->nonce, shared->nonce + half, half * sizeof(*shared->nonce));
        shared->nonce_count = half;
    }
    if (shared->nonce_count == shared->nonce_room) {
        uint32_t room = shared->nonce_room != 0 ? 2 * shared->nonce_room : 32;
        uint64_t *larger = realloc(shared->nonce, room * sizeof(*larger));
        if (larger == NULL) {
            return false;
        }
        shared->nonce = larger;
        shared->nonce_room = room;
    }
    shared->nonce[shared->nonce_count++] = nonce;
    return true;
}

/* Files of our user, of this pid namespace, whose parent process is no more. */
static void
remove_orphans(const char *dir, uint64_t ns_pid)
{
    char prefix[64];
    size_t length = (size_t)snprintf(prefix, sizeof(prefix), PREFIX "%" PRIu64 ".", ns_pid);
    DIR *entries = opendir(dir);
    struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        struct stat st;
        char *end;
        if (strncmp(entry->d_name, prefix, length) != 0 ||
            !isdigit((unsigned char)entry->d_name[length])) {
            continue;
        }
        unsigned long parent = strtoul(entry->d_name + length, &end, 10);
        unsigned long long start = *end == '.' ? strtoull(end + 1, NULL, 10) : 0;
        if (parent != 0 && parent <= INT32_MAX && start != start_of((uint32_t)parent) &&
            fstatat(dirfd(entries), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode) && st.st_uid == geteuid()) {
            (void)unlinkat(dirfd(entries), entry->d_name, 0);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
}

/* 0 for a process that is no more. */
static uint64_t
start_of(uint32_t pid)
{
    struct lg_proc_stat stat;
    return lg_proc_read_stat((pid_t)pid, &stat) == 0 ? stat.start_ticks : 0;
}
