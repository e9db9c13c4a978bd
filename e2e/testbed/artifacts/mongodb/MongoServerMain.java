import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import io.netty.channel.Channel;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import org.h2.mvstore.MVStore;

/**
 * {@code MongoServerMain HOST PORT FILE}: mongo-java-server on one H2 file.
 *
 * <p>A write is committed to the file before it is answered, as with MongoDB's journaled write
 * concern: what was acknowledged is still there after {@code kill -9}.
 */
public final class MongoServerMain {
  private static final Set<String> WRITES =
      Set.of("insert", "update", "delete", "findandmodify", "create", "createindexes", "drop",
          "dropdatabase", "dropindexes", "renamecollection");

  public static void main(String[] arguments) throws Exception {
    MVStore store = new MVStore.Builder().fileName(arguments[2]).open();
    // Superseded chunks are reused at once, else the file grows with every commit.
    store.setRetentionTime(0);
    H2Backend backend = new CommittingBackend(store);
    backend.version(new Version5());
    MongoServer server = new MongoServer(backend);
    server.bind(arguments[0], Integer.parseInt(arguments[1]));
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      server.shutdownNow();
      store.close();
    }));
    Thread.currentThread().join();
  }

  /** Commits after every write command. Commands that end together share one commit. */
  private static final class CommittingBackend extends H2Backend {
    private final MVStore store;
    private final Object commitLock = new Object();
    private long written;
    private long committed;

    CommittingBackend(MVStore store) {
      super(store);
      this.store = store;
    }

    @Override
    public Document handleMessage(MongoMessage message) {
      try {
        return super.handleMessage(message);
      } finally {
        commitIfWrite(message.getDocument().keySet().iterator().next());
      }
    }

    @Override
    public Document handleCommand(Channel channel, String database, String command, Document query) {
      try {
        return super.handleCommand(channel, database, command, query);
      } finally {
        commitIfWrite(command);
      }
    }

    private void commitIfWrite(String command) {
      if (!WRITES.contains(command.toLowerCase(Locale.ROOT))) {
        return;
      }
      long mine = nextWrite();
      synchronized (commitLock) {
        if (committed < mine) {
          long covered = lastWrite();
          store.commit();
          committed = covered;
        }
      }
    }

    private synchronized long nextWrite() {
      return ++written;
    }

    private synchronized long lastWrite() {
      return written;
    }
  }

  /** Drivers refuse servers that announce less than wire version 9. */
  private static final class Version5 implements MongoVersion {
    @Override
    public List<Integer> getVersionArray() {
      return List.of(5, 0, 0);
    }

    @Override
    public int getWireVersion() {
      return 13;
    }
  }
}
