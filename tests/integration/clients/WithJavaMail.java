import java.io.ByteArrayOutputStream;
import java.io.FileInputStream;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Properties;
import javax.mail.Folder;
import javax.mail.Message;
import javax.mail.Session;
import javax.mail.Store;
import javax.mail.event.MessageCountAdapter;
import javax.mail.event.MessageCountEvent;
import javax.mail.internet.MimeMessage;
import com.sun.mail.imap.IMAPFolder;

/** HOST PORT USER PASSWORD MESSAGE: the steps of every client, with JavaMail. */
public class WithJavaMail {
    static String digest(Message... messages) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        for (Message message : messages) {
            ByteArrayOutputStream octets = new ByteArrayOutputStream();
            message.writeTo(octets);
            digest.update(octets.toByteArray());
        }
        StringBuilder text = new StringBuilder();
        for (byte octet : digest.digest()) text.append(String.format("%02x", octet));
        return text.toString();
    }

    public static void main(String[] words) throws Exception {
        Properties properties = new Properties();
        properties.put("mail.imap.peek", "true");
        properties.put("mail.imap.connectionpoolsize", "1");
        Session session = Session.getInstance(properties);
        Store store = session.getStore("imap");
        store.connect(words[0], Integer.parseInt(words[1]), words[2], words[3]);

        List<String> names = new ArrayList<>();
        for (Folder folder : store.getDefaultFolder().list("*")) names.add(folder.getFullName());
        Collections.sort(names);
        System.out.println("list " + String.join(" ", names));

        IMAPFolder inbox = (IMAPFolder) store.getFolder("INBOX");
        inbox.open(Folder.READ_WRITE);
        System.out.println("select " + inbox.getMessageCount());
        System.out.println("one " + digest(inbox.getMessage(1)));
        System.out.println("all " + digest(inbox.getMessages()));

        inbox.appendMessages(new Message[] {new MimeMessage(session, new FileInputStream(words[4]))});
        System.out.println("append OK " + digest(inbox.getMessage(inbox.getMessageCount())));

        int[] arrived = {0};
        inbox.addMessageCountListener(new MessageCountAdapter() {
            @Override
            public void messagesAdded(MessageCountEvent event) {
                arrived[0] = event.getMessages()[0].getMessageNumber();
            }
        });
        System.out.println("idle");
        while (arrived[0] == 0) inbox.idle(true);
        System.out.println("arrived " + arrived[0]);
        inbox.close(false);
        store.close();
        System.out.println("logout " + (store.isConnected() ? "?" : "BYE"));
    }
}
