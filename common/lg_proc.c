/*
 * lg_proc.c - reads /proc; keeps nothing open.
 *
 * Any thread. Everything read is another program's text: bounded, and parsed
 * from where it cannot be faked (field 22 counts from the last ')').
 */
#include "lg_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void proc_path(pid_t pid, const char *name, char *out, size_t size);
static int read_text(const char *path, char *out, size_t size, size_t *length);
static int read_fd(int fd, char *out, size_t size, size_t *length);
static bool copy_comm(const char *text, const char *close, char *out, size_t size);
static const char *status_line(const char *text, const char *name);
static int hex_digit(char c);

int
lg_proc_read_stat(pid_t pid, struct lg_proc_stat *out)
{
    char path[64];
    char text[1024];
    size_t length;
    struct lg_proc_stat stat = {0};
    proc_path(pid, "stat", path, sizeof(path));
    int err = read_text(path, text, sizeof(text), &length);
    if (err != 0) {
        return err;
    }
    /* The name may hold spaces and brackets, the numbers behind it may not. */
    const char *close = strrchr(text, ')');
    unsigned long long start;
    if (close == NULL || !copy_comm(text, close, stat.comm, sizeof(stat.comm)) ||
        sscanf(close + 1,
               " %c %u %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &stat.state, &stat.ppid, &start) != 3) {
        return -EBADMSG;
    }
    stat.start_ticks = start;
    *out = stat;
    return 0;
}

int
lg_proc_read_status(pid_t pid, struct lg_proc_status *out)
{
    char path[64];
    char text[8192];
    size_t length;
    proc_path(pid, "status", path, sizeof(path));
    int err = read_text(path, text, sizeof(text), &length);
    if (err != 0) {
        return err;
    }
    const char *uid = status_line(text, "\nUid:");
    const char *inner = status_line(text, "\nNSpid:");
    const char *own = status_line(text, "\nPid:");
    struct lg_proc_status status;
    if (uid == NULL || own == NULL || sscanf(uid, "%*u %u", &status.uid) != 1) {
        return -EBADMSG;
    }
    /* Kernels without NSpid (before 4.1) have one pid to give. */
    status.inner_pid = (uint32_t)strtoul(own, NULL, 10);
    while (inner != NULL && *inner != '\n') {
        char *end;
        unsigned long pid_there = strtoul(inner, &end, 10);
        if (end == inner) {
            break;
        }
        status.inner_pid = (uint32_t)pid_there;
        inner = end;
    }
    *out = status;
    return 0;
}

int
lg_proc_read_cmdline(pid_t pid, char *out, size_t size)
{
    char path[64];
    size_t length;
    proc_path(pid, "cmdline", path, sizeof(path));
    int err = read_text(path, out, size, &length);
    if (err != 0) {
        return err;
    }
    while (length > 0 && out[length - 1] == '\0') {
        length--;
    }
    for (size_t i = 0; i < length; i++) {
        out[i] = out[i] == '\0' ? ' ' : out[i];
    }
    return 0;
}

int
lg_proc_read_exe(pid_t pid, char *out, size_t size)
{
    char path[64];
    proc_path(pid, "exe", path, sizeof(path));
    ssize_t length = readlink(path, out, size - 1);
    if (length < 0) {
        out[0] = '\0';
        return errno == ENOENT ? -ESRCH : -errno;
    }
    out[length] = '\0';
    return 0;
}

int
lg_proc_read_ns(pid_t pid, const char *name, uint64_t *out)
{
    char path[64];
    char file[32];
    struct stat st;
    snprintf(file, sizeof(file), "ns/%s", name);
    proc_path(pid, file, path, sizeof(path));
    if (stat(path, &st) == 0) {
        *out = st.st_ino;
        return 0;
    }
    if (errno != ENOENT) {
        return -errno;
    }
    proc_path(pid, "stat", path, sizeof(path));
    if (access(path, F_OK) != 0) {
        return -ESRCH;
    }
    *out = 0;                           /* the kernel has no such namespace */
    return 0;
}

int
lg_proc_read_boot_id(uint8_t out[16])
{
    char text[64];
    size_t length;
    uint8_t id[16];
    int err = read_text("/proc/sys/kernel/random/boot_id", text, sizeof(text), &length);
    if (err != 0) {
        return err;
    }
    const char *c = text;
    for (size_t i = 0; i < sizeof(id); i++) {
        c += *c == '-';
        int high = hex_digit(c[0]);
        int low = high < 0 ? -1 : hex_digit(c[1]);
        if (low < 0) {
            return -EBADMSG;
        }
        id[i] = (uint8_t)(high << 4 | low);
        c += 2;
    }
    memcpy(out, id, sizeof(id));
    return 0;
}

static void
proc_path(pid_t pid, const char *name, char *out, size_t size)
{
    if (pid == 0) {
        snprintf(out, size, "/proc/self/%s", name);
    }
    else {
        snprintf(out, size, "/proc/%d/%s", (int)pid, name);
    }
}

/* Up to size - 1 bytes, NUL-terminated; the rest of the file is left out. */
static int
read_text(const char *path, char *out, size_t size, size_t *length)
{
    out[0] = '\0';
    *length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? -ESRCH : -errno;
    }
    int err = read_fd(fd, out, size, length);
    close(fd);
    return err;
}

static int
read_fd(int fd, char *out, size_t size, size_t *length)
{
    size_t got = 0;
    while (got < size - 1) {
        ssize_t n = read(fd, out + got, size - 1 - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;              /* ESRCH: it ended meanwhile */
        }
        if (n == 0) {
            break;
        }
        got += (size_t)n;
    }
    out[got] = '\0';
    *length = got;
    return 0;
}

static bool
copy_comm(const char *text, const char *close, char *out, size_t size)
{
    const char *open = strchr(text, '(');
    if (open == NULL || open >= close) {
        return false;
    }
    size_t length = (size_t)(close - open - 1);
    length = length < size ? length : size - 1;
    memcpy(out, open + 1, length);
    out[length] = '\0';
    return true;
}

/* What follows `name` in a status text, or NULL. */
static const char *
status_line(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line == NULL ? NULL : line + strlen(name);
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return -1;
}
