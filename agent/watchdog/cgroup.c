/*
 * cgroup.c - see cgroup.h. Formats: cgroups(7), Documentation/scheduler/
 * sched-bwc.rst of the kernel.
 */
#include "cgroup.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../common/lg_layout.h"

#define MOUNT "/sys/fs/cgroup"

static int open_stat(char *line);
static bool has_cpu(const char *controllers);
static ssize_t read_text(int fd, char *text, size_t size_bytes);

int
lg_cgroup_open(void)
{
    char text[2048];
    int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    ssize_t n = read_text(fd, text, sizeof(text));
    if (fd >= 0) {
        close(fd);
    }
    if (n <= 0) {
        return -1;
    }
    int found = -1;
    char *rest = text;
    for (char *line; found < 0 && (line = strsep(&rest, "\n")) != NULL;) {
        found = open_stat(line);
    }
    return found;
}

uint64_t
lg_cgroup_throttled(int fd)
{
    char text[1024];
    const char *at = read_text(fd, text, sizeof(text)) > 0 ? strstr(text, "nr_throttled ") : NULL;
    return at == NULL ? LG_NONE : strtoull(at + strlen("nr_throttled "), NULL, 10);
}

/* A line is "number:controllers:path"; version 2 has no controllers. A group
 * without the controller has no throttling in its file: then it is not it. */
static int
open_stat(char *line)
{
    const char *number = strsep(&line, ":");
    const char *controllers = line != NULL ? strsep(&line, ":") : NULL;
    if (number == NULL || controllers == NULL || line == NULL) {
        return -1;
    }
    const char *folders[] = {"", controllers, "cpu"};
    bool unified = controllers[0] == '\0';
    if (!unified && !has_cpu(controllers)) {
        return -1;
    }
    for (size_t i = unified ? 0 : 1; i < (unified ? 1 : 3); i++) {
        char path[512];
        int length = snprintf(path, sizeof(path), "%s/%s%s/cpu.stat", MOUNT, folders[i], line);
        if (length < 0 || (size_t)length >= sizeof(path)) {
            continue;
        }
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && lg_cgroup_throttled(fd) != LG_NONE) {
            return fd;
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    return -1;
}

/* Is "cpu" one of "cpu,cpuacct"? */
static bool
has_cpu(const char *controllers)
{
    for (const char *p = controllers; p != NULL; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, "cpu", 3) == 0 && (p[3] == ',' || p[3] == '\0')) {
            return true;
        }
    }
    return false;
}

/* Always NUL-terminated when anything was read. */
static ssize_t
read_text(int fd, char *text, size_t size_bytes)
{
    ssize_t n = fd < 0 ? -1 : pread(fd, text, size_bytes - 1, 0);
    if (n >= 0) {
        text[n] = '\0';
    }
    return n;
}
