/* Folders of repository agents are removed, whatever the permissions of what was copied there. Its argument: the library.
 * As root it becomes somebody else first: permissions are nothing to root.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                               \
    do {                                                               \
        if (!(condition)) {                                            \
            printf("line %d: %s\n", __LINE__, #condition);             \
            exit(1);                                                   \
        }                                                              \
    } while (0)

typedef void *(*new_agent_t)(void);
typedef void *(*new_model_t)(const char *, int32_t, const char *, uint32_t, const char *const *, const char *const *);
typedef void *(*acquire_t)(void *, void *, int, const char **);
typedef void *(*free_model_t)(void *);

static void *library;

static void *find(const char *name) {
    void *found = dlsym(library, name);
    CHECK(found != NULL);
    return found;
}

static void file(const char *path) {
    int made = open(path, O_CREAT | O_WRONLY, 0400);
    CHECK(made >= 0);
    close(made);
}

static int exists(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0;
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    library = dlopen(arguments[1], RTLD_NOW);
    CHECK(library != NULL);
    if (getuid() == 0)
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    CHECK(setenv("TMPDIR", "/tmp", 1) == 0);
    void *agent = ((new_agent_t)find("ta_agent_new"))();
    const char *none[1] = {NULL}, *folder;
    void *model = ((new_model_t)find("ta_agent_model_new"))("/tmp", 0, "{}", 0, none, none);
    CHECK(((acquire_t)find("TRITONREPOAGENT_ModelRepositoryLocationAcquire"))(agent, model, 0, &folder) == NULL);
    char path[4096], outside[] = "/tmp/agent_folder_outside_XXXXXX";
    CHECK(mkdtemp(outside) != NULL);
    snprintf(path, sizeof(path), "%s/kept", outside);
    file(path);
    CHECK(chdir(folder) == 0);
    CHECK(mkdir("1", 0700) == 0 && mkdir("2", 0700) == 0 && mkdir("1/empty", 0700) == 0);
    file("1/a");
    file("1/b");
    file("2/c");
    file("d");
    CHECK(symlink(outside, "link") == 0);
    CHECK(symlink("nowhere", "1/dangling") == 0);
    CHECK(mkfifo("2/pipe", 0) == 0);
    CHECK(chmod("1/empty", 0) == 0 && chmod("1", 0500) == 0 && chmod("2", 0) == 0 && chmod(".", 0500) == 0);
    CHECK(chdir("/") == 0);
    char *copy = realpath(folder, NULL);
    CHECK(((free_model_t)find("ta_agent_model_free"))(model) == NULL);
    CHECK(!exists(copy));
    CHECK(exists(path));
    CHECK(unlink(path) == 0 && rmdir(outside) == 0);
    puts("removed");
    return 0;
}
